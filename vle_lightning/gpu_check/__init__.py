"""What a GPU makes of this code, measured in one go: ``make gpu-check``."""
