"""Everything but the nodes and the command line. Runs without ComfyUI."""
