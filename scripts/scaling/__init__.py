"""What scaling out costs: overheads that are measured here, and a simulation of 1 to 64 nodes that uses them."""
