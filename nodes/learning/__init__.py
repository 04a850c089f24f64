"""Nodes that learn instructions, one module for each space, and nodes that find init texts."""
