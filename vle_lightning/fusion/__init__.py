"""Fusion encoders: a text stream and an image stream in, fused streams out."""
