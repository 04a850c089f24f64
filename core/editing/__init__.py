"""Applying: noise levels and segments, dual guidance, injected keys and values, the sampler."""
