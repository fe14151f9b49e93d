"""Kernels for NVIDIA GPUs: the recurrence in Pallas, by Triton; and cuDNN, in ``cudnn.py``."""

from jaxlstm.kernels.contract import Kernels
from jaxlstm.kernels.gpu.backward import run_backward
from jaxlstm.kernels.gpu.forward import run_forward

CUDA = Kernels(run_forward, run_backward)
