"""What a run did: the report, and what is made of it."""
