"""Readers of data sets of pairs; each gives the effects that methods learn from and are tested on."""
