"""LSTMs in a state dict: find them, and convert between a state dict and parameters."""
