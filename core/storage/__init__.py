"""Reading and writing files: images, tables, JSON, safetensors headers, and the names that users give."""
