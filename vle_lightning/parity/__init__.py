"""Our numbers beside the authors': every reference fixture, tensor by tensor (docs/parity.md)."""
