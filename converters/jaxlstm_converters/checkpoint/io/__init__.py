"""Files, byte streams, storages and tensors."""
