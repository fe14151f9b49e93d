"""Kernels for TPUs, in Pallas. The recurrent weights and the state stay in VMEM over all time steps."""

from jaxlstm.kernels.primitive import PlatformKernels, build_recurrence
from jaxlstm.kernels.tpu.passes import backward_pass, forward_pass

TPU = PlatformKernels("tpu", forward_pass, backward_pass)
PALLAS = build_recurrence("lstm_pallas", TPU, required_by="pallas")

__all__ = ["PALLAS", "TPU"]
