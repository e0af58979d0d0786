"""Data: what samples there are, and how they become batches."""
