"""What a shard folder holds: `python -m datamodules.inspect DIR` verifies, counts and draws it."""
