"""Kernels for TPUs, in Pallas: recurrent weights and state stay in VMEM from the first step to the last."""

from jaxlstm.kernels.contract import Kernels
from jaxlstm.kernels.tpu.backward import run_backward
from jaxlstm.kernels.tpu.forward import run_forward

TPU = Kernels(run_forward, run_backward)

__all__ = ["TPU"]
