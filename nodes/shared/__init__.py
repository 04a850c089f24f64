"""Code that several nodes share: socket types, inputs, checks and previews."""
