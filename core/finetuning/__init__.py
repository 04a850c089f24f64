"""Fine-tuning a whole editing model on pairs with words: the data, InstructPix2Pix's loss, and a loop for one process or many."""
