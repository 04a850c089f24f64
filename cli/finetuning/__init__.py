"""The commands that fine-tune editing models: ``train-region`` and ``reason train``."""
