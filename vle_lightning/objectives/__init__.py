"""Pre-training objectives, one module each; an experiment file names them by module."""
