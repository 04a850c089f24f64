"""Benchmarks of methods that follow an instruction: MagicBrush, Emu Edit Test and reasoning instructions."""
