"""Language models behind one protocol: a folder on this machine, or an endpoint that the user names."""
