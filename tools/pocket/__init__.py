"""The programs that made the built-in pocket models: training images, training and evaluation.

`world` draws scenes, edits and held-out effects; it needs only numpy, scipy and Pillow. `wishes` adds
indirect wishes and questions. `models` holds architectures and tokenizers. `stages` trains the editors;
`reasoning_stages` trains finder, reader and connector. The last three need torch, diffusers and transformers.
`python -m tools.pocket.stages.train` runs every stage.

Seeds fix every pixel and every word. A change in the order of random draws changes all training data and the
benchmarks.
"""
