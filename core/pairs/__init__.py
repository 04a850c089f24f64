"""Before/after pairs: how they lie in folders, and how they are read."""
