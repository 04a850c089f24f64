"""The command line, ``python -m instructbrush``: learning, editing, benchmarks and fine-tuning without ComfyUI."""
