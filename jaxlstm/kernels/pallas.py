"""The recurrence in Pallas, on each platform that has kernels in it."""

from __future__ import annotations

from jaxlstm.kernels.gpu import CUDA
from jaxlstm.kernels.platforms import recurrence_of
from jaxlstm.kernels.tpu import TPU

PALLAS = recurrence_of("lstm_pallas", {"cuda": CUDA, "tpu": TPU}, insists="pallas")
