"""Benchmarks like TOP-Bench (InstructBrush, supplement B): pairs of named effects, 10 + 5 of each."""
