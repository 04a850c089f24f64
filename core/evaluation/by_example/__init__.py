"""Benchmarks of methods that learn from pairs: TOP-Bench."""
