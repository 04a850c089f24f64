"""Builds small data sets of the pocket world with the built-in models and a scripted language model."""
