"""``instructbrush build``: builds the papers' data sets."""
