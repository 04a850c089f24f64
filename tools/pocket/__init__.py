"""How the built-in "pocket" editor was made: its images, its training and its evaluation.

The drawing rooms (`drawing`, `scenes`, `filters`, `effects`, `heldout`) need only numpy and PIL; the training rooms need torch, diffusers and transformers.
`python -m tools.pocket.stages.train` runs every stage.
"""
