"""Nodes that find, prepare and edit regions."""
