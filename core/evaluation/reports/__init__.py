"""Parts that the reports of all benchmarks share: figures, text tables, HTML."""
