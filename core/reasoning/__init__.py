"""Instructions that need a thought: a vision-language model reads the words together with the image."""
