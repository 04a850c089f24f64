"""The models that the stages use: captioners, parsers, and what replaces objects."""
