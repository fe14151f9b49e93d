"""The LSTM itself, on which the public functions, the Flax modules and the kernels are built."""
