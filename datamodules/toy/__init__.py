"""The embedded world: draws scenes and writes them in the official raw layouts."""
