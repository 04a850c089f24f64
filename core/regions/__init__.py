"""Regions where an edit may act: masks, boxes, and models that find them by words."""
