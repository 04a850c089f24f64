"""Models that read images or words: CLIP, DINO and vision-language models."""
