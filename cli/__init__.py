"""The command line, ``python -m instructbrush``: learns, edits, benchmarks and fine-tunes without ComfyUI."""
