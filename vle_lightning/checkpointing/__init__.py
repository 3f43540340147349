"""How a run's checkpoints are written so that none is ever lost, and read whatever wrote them."""
