"""Learning an instruction from before/after pairs."""
