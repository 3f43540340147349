"""How a run is spread over devices: data parallel, fully sharded, DeepSpeed's ZeRO."""
