"""Frozen models that encode images and text: CLIP, DINO and vision-language models."""
