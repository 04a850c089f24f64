"""Images, models and mathematics: importable without ComfyUI."""
