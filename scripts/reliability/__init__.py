"""Long and disturbed runs: with random kills (chaos), and over a long time (soak)."""
