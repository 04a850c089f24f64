"""Small text-to-image models for tests."""
