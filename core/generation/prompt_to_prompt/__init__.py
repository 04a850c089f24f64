"""Pairs of images from two captions: prompt-to-prompt attention control (Hertz et al. 2022)."""
