"""Data: shards in, micro-batches out."""
