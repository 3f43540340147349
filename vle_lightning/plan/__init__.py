"""What a run will cost before there is a GPU: parameters, FLOPs, memory, hours, and what the loaders must deliver."""
