"""Measuring edits: metrics, benchmarks, their methods, runs and reports."""
