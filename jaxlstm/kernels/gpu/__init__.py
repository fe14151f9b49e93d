"""Kernels for NVIDIA GPUs: the recurrence in Pallas, by Triton; and cuDNN, in ``cudnn.py``."""

from jaxlstm.kernels.gpu.backward import cotangent
from jaxlstm.kernels.gpu.forward import run, run_and_differentiate
from jaxlstm.kernels.platforms import Kernels

CUDA = Kernels(run, run_and_differentiate, cotangent)
