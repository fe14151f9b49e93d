"""``torch.nn.LSTM`` as a reference.

torch is imported on use. Matrix products of float32 run in full precision: TF32 and bfloat16 are switched off
for the duration of a run, and the caller's settings and random state are preserved. A run uses one thread, so
that sums have the same order on every machine.
"""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlstm._shared.torch_tensors import numpy_to_tensor, tensor_to_numpy
from jaxlstm.check.cases.case import Case
from jaxlstm.check.cases.results import Results
from jaxlstm.check.reference import torch_precision
from jaxlstm.check.reference.oracle_lstm import OracleLSTM
from jaxlstm.layer.config import LSTMCellConfig, LSTMConfig

if TYPE_CHECKING:
    import torch


class TorchLSTM(OracleLSTM):
    """``torch.nn.LSTM``. Its results come from torch, the effect of rounding from the oracle."""

    name = "torch"

    def run(self, case: Case, dtype: Any = np.float64, *, gradients: bool = False) -> Results:
        """Run ``torch.nn.LSTM`` in ``dtype`` on a case. An LSTMCell runs as an LSTM of one layer.

        Parameters and case are rounded to ``dtype``. Outputs in the padding are zero.
        """
        import torch

        case = case.astype(dtype)
        with pinned():
            module = _module(self.params, self.config, dtype)
            floats = {name: a for name, a in case.arrays.items() if name != "seq_lengths"}
            sources = {name: _tensor(a).requires_grad_(gradients) for name, a in floats.items()}
            state = (sources["h_0"], sources["c_0"]) if "h_0" in sources else None
            tensors = _call(module, sources["inputs"], state, case.seq_lengths)
            outputs, h_n, c_n = map(tensor_to_numpy, tensors)
            results = Results.of_lstm(outputs, h_n, c_n)
            if not gradients:
                return results
            parameters = dict(module.named_parameters())
            sources = {n: parameters[n + _suffix(self.config)] for n in self.params} | sources
            cotangents = [_tensor(case.cotangents[name]) for name in results.outputs]
            found = torch.autograd.grad(tensors, list(sources.values()), grad_outputs=cotangents)
        return replace(results, gradients=dict(zip(sources, map(tensor_to_numpy, found), strict=True)))


def is_available() -> bool:
    """Return True if torch is installed, without importing it."""
    return importlib.util.find_spec("torch") is not None


def environment() -> dict[str, str]:
    """Return torch's version and the precision settings of a run."""
    import torch

    with pinned():
        settings = torch_precision.in_force()
    settings["torch.cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    settings["torch.mkldnn"] = str(torch.backends.mkldnn.is_available())
    return {"torch": torch.__version__, **settings}


def _module(params: Mapping[str, Any], config: LSTMConfig, dtype: Any) -> torch.nn.LSTM:
    import torch

    module = torch.nn.LSTM(
        config.input_size,
        config.hidden_size,
        config.num_layers,
        bias=config.bias,
        bidirectional=config.bidirectional,
        proj_size=config.proj_size,
        device="meta",  # Initial values would draw from the caller's random state.
        dtype=getattr(torch, np.dtype(dtype).name),
    ).to_empty(device="cpu")
    state_dict = {
        name + _suffix(config): _tensor(np.asarray(value).astype(dtype)) for name, value in params.items()
    }
    module.load_state_dict(state_dict, strict=True)
    return module.eval()


def _suffix(config: LSTMConfig) -> str:
    """Return the suffix that torch.nn.LSTM adds to the names of an LSTMCell's parameters."""
    return "_l0" if isinstance(config, LSTMCellConfig) else ""


def _call(module: Any, x: torch.Tensor, state: Any, lengths: Any) -> tuple[torch.Tensor, ...]:
    from torch.nn.utils import rnn

    with warnings.catch_warnings():
        # The warning is about the choice of torch's CPU implementation.
        warnings.filterwarnings("ignore", message="LSTM with projections is not supported")
        if lengths is None:
            outputs, (h_n, c_n) = module(x, state)
        else:
            packed = rnn.pack_padded_sequence(x, lengths.tolist(), enforce_sorted=False)
            outputs, (h_n, c_n) = module(packed, state)
            outputs, _ = rnn.pad_packed_sequence(outputs, total_length=x.shape[0])
    return outputs, h_n, c_n


def _tensor(array: Any) -> torch.Tensor:
    """Return a tensor with the bits of an array in its own memory."""
    return numpy_to_tensor(np.array(array, order="C"))


@contextlib.contextmanager
def pinned() -> Iterator[None]:
    """Run torch in full precision on one thread within a context."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch_precision.pinned():
            yield
    finally:
        torch.set_num_threads(threads)
