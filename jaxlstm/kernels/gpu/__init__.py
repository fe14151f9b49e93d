"""NVIDIA GPUs: whole stacks by cuDNN."""
