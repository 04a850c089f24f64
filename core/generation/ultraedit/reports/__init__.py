"""What a table of edits holds: UltraEdit's Tables 5 and 6, and the datasheet of a build."""
