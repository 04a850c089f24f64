"""Where an edit may act: masks and boxes."""
