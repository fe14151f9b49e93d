"""Reference implementations of torch.nn.LSTM: torch itself and a float64 oracle in NumPy."""
