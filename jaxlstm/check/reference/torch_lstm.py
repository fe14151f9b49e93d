"""``torch.nn.LSTM`` as a reference, and the versions and settings of torch."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlstm.check.cases.case import ArrayName, Case, Results
from jaxlstm.check.reference import torch_precision
from jaxlstm.check.reference.oracle_lstm import OracleLSTM
from jaxlstm.check.reference.torch_model import pinned, run_module
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
        arguments = (), {name: ArrayName(name) for name in case.arrays}
        suffix = "_l0" if isinstance(self.config, LSTMCellConfig) else ""
        with pinned(dtype, is_layer=True), warnings.catch_warnings():
            # The warning is about the choice of torch's CPU implementation.
            warnings.filterwarnings("ignore", message="LSTM with projections is not supported")
            module = _module({name + suffix: a for name, a in self.params.items()}, self.config, dtype)
            case = replace(case.astype(dtype), arguments=arguments)
            results = run_module(module, case, gradients, lambda returned: returned)
        by_name = {name.removesuffix(suffix): a for name, a in (results.gradients or {}).items()}
        return replace(results, gradients=by_name if gradients else None)


def is_available() -> bool:
    """Return True if torch is installed, without importing it."""
    return importlib.util.find_spec("torch") is not None


def environment() -> dict[str, str]:
    """Return torch's version and the precision settings of a run."""
    import torch

    with torch_precision.pinned():
        settings = torch_precision.in_force()
    settings["torch.cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    settings["torch.mkldnn"] = str(torch.backends.mkldnn.is_available())
    return {"torch": torch.__version__, **settings}


def _module(params: Mapping[str, Any], config: LSTMConfig, dtype: Any) -> torch.nn.Module:
    """Return the LSTM as a module of the arguments of a case, with results by name."""
    import torch
    from torch.nn.utils import rnn

    from jaxlstm.check.reference.torch_double import to_tensor

    class OfCases(torch.nn.LSTM):
        @torch.enable_grad()  # With and without gradients, the results come from the same kernel.
        def forward(  # type: ignore[override]
            self, inputs: Any, h_0: Any = None, c_0: Any = None, seq_lengths: Any = None
        ) -> Any:
            state = None if h_0 is None else (h_0, c_0)
            if seq_lengths is None:
                outputs, (h_n, c_n) = super().forward(inputs, state)
            else:
                packed = rnn.pack_padded_sequence(inputs, seq_lengths.tolist(), enforce_sorted=False)
                outputs, (h_n, c_n) = super().forward(packed, state)
                outputs, _ = rnn.pad_packed_sequence(outputs, total_length=len(inputs))
            return {"outputs": outputs, "h_n": h_n, "c_n": c_n}

    options: Any = {**asdict(config), "batch_first": False, "dropout": 0.0}
    # Initial values would draw from the caller's random state.
    module = OfCases(**options, device="meta", dtype=getattr(torch, np.dtype(dtype).name))
    module = module.to_empty(device="cpu")
    rounded = {name: to_tensor(np.asarray(value).astype(dtype)) for name, value in params.items()}
    module.load_state_dict(rounded, strict=True)
    return module.eval()
