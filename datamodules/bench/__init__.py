"""Speed of the stream beside the plain Pillow path and bare decoding; ``make bench-data`` prints it."""
