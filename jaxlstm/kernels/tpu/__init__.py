"""Kernels for TPUs, in Pallas: recurrent weights and state stay in VMEM from the first step to the last."""

from jaxlstm.kernels.platforms import Kernels
from jaxlstm.kernels.tpu.backward import cotangent
from jaxlstm.kernels.tpu.forward import run, run_and_differentiate

TPU = Kernels(run, run_and_differentiate, cotangent)

__all__ = ["TPU"]
