"""Measures edits: metrics, benchmarks with their methods, runs and reports, and preference studies."""
