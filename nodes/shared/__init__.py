"""What several nodes share: socket types, inputs and previews."""
