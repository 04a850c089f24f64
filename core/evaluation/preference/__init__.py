"""Studies of what people prefer."""
