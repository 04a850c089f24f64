"""Models: what they are, where their cross-attention is, and how they are read and run."""
