"""Instructions that need reasoning: a vision-language model reads the words together with the image."""
