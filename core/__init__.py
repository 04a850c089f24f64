"""Images, models and mathematics: everything that works without ComfyUI."""
