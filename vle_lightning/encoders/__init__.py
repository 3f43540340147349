"""Text and image towers: token ids or pixels in, a stream of states out."""
