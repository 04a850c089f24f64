"""Readers of the benchmarks: MagicBrush, Emu Edit Test, reasoning instructions."""
