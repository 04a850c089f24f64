"""Models: detection, weight files, and building modules from them."""
