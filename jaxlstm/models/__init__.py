"""Whole models: the graph of an exported PyTorch program, and the operators that run it in JAX."""
