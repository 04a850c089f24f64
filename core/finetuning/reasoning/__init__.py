"""Trains a connector to a vision-language model, alone and together with an editor (ReasonPix2Pix)."""
