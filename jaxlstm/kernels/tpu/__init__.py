"""Kernels for TPUs, in Pallas. The recurrent weights and the state stay in VMEM over all time steps."""

from jaxlstm.kernels.platforms import PlatformKernels, build_recurrence
from jaxlstm.kernels.tpu.backward import run_backward
from jaxlstm.kernels.tpu.forward import run_forward

TPU = PlatformKernels(run_forward, run_backward)
PALLAS = build_recurrence("lstm_pallas", {"tpu": TPU}, required_by="pallas")

__all__ = ["PALLAS", "TPU"]
