"""Builds reasoning data as ReasonPix2Pix describes: indirect instructions, and objects that are replaced."""
