"""The commands that fine-tune editing models: ``finetune``, ``train-region`` and ``reason train``."""
