"""UltraEdit's data: instructions brainstormed from captions, free-form pairs, and pairs with a region."""
