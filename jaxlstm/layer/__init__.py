"""The LSTM itself: what the public functions, the Flax modules and the kernels stand on."""
