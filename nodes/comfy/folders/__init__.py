"""Files and folders of a ComfyUI installation."""
