"""Learned instructions: data, arithmetic, files, and how they act in a model."""
