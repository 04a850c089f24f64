"""Fine-tunes an editing model on pairs with words: data, InstructPix2Pix's loss, and the training loop."""
