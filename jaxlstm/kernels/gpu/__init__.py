"""NVIDIA GPUs: cuDNN, in ``cudnn.py``."""
