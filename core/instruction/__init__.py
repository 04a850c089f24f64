"""A learned instruction and the file that holds it."""
