"""Words that learning starts from: unique phrases and captions."""
