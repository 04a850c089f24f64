"""Runs the stages of a build on the rows of a table: resumable, in one process, in several, or on Ray."""
