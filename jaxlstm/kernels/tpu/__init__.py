"""Kernels for TPUs, in Pallas: recurrent weights and state stay in VMEM from the first step to the last."""

from jaxlstm.kernels.platforms import PlatformKernels, build_recurrence
from jaxlstm.kernels.tpu.backward import run_backward
from jaxlstm.kernels.tpu.forward import run_forward

TPU = PlatformKernels(run_forward, run_backward)
PALLAS = build_recurrence("lstm_pallas", {"tpu": TPU}, insists="pallas")

__all__ = ["PALLAS", "TPU"]
