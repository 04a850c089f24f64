"""Benchmarks of methods that learn from example pairs: TOP-Bench, and PocketBench in tools/."""
