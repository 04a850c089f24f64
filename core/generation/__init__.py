"""Builds data sets of edits with language models and image models, as the papers describe."""
