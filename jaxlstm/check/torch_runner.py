"""torch's own answer to a case. Only here and in :mod:`.torch_precision` is torch imported, when it is asked.

float32 means float32 here: TF32 and bfloat16 are switched off on every path for the length of the run, what
was in force is read back for the report, and the caller's settings and random state are left as they were.
One thread runs: sums are then in the same order on every machine, and nothing waits for others.
"""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from jaxlstm.check import torch_precision
from jaxlstm.check.answer import Answer
from jaxlstm.check.inputs import Case
from jaxlstm.config import LSTMCellConfig, LSTMConfig

if TYPE_CHECKING:
    import torch


def is_available() -> bool:
    """Whether torch is installed, without importing it."""
    return importlib.util.find_spec("torch") is not None


def run(
    params: Mapping[str, Any],
    config: LSTMConfig,
    case: Case,
    dtype: Any,
    *,
    gradients: bool = False,
    device: str = "cpu",
) -> Answer:
    """``torch.nn.LSTM`` on a case; an LSTMCell runs as the one-layer LSTM that it is.

    Args:
      params: arrays under torch's names, rounded to ``dtype`` here.
      config: the LSTM.
      case: the call, rounded to ``dtype`` here.
      dtype: float16, bfloat16, float32 or float64.
      gradients: also those of the case's functional.
      device: where torch runs.

    Returns:
      The answer, as arrays of ``dtype``; outputs behind a sequence's end are zero.
    """
    import torch

    case = case.astype(dtype)
    with _pinned():
        module = _module(params, config, dtype, device)
        x = _tensor(case.inputs, device).requires_grad_(gradients)
        state = None
        if case.initial_state is not None:
            state = tuple(_tensor(a, device).requires_grad_(gradients) for a in case.initial_state)
        results = _call(module, x, state, case.seq_lengths)
        outputs, h_n, c_n = map(_array, results)
        answer = Answer(outputs, h_n, c_n)
        if not gradients:
            return answer
        sources: dict[str, torch.Tensor] = {
            _own_name(name, config): leaf for name, leaf in module.named_parameters()
        }
        sources["inputs"] = x
        if state is not None:
            sources |= {"h_0": state[0], "c_0": state[1]}
        found = torch.autograd.grad(
            results,
            list(sources.values()),
            grad_outputs=[_tensor(a, device) for a in case.cotangents],
        )
    return answer._replace(gradients=dict(zip(sources, map(_array, found), strict=True)))


def environment() -> dict[str, str]:
    """torch's version, and the precision in force while :func:`run` runs."""
    import torch

    with _pinned():
        found = torch_precision.in_force()
    found["torch.cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    found["torch.mkldnn"] = str(torch.backends.mkldnn.is_available())
    return {"torch": torch.__version__, **found}


def _module(
    params: Mapping[str, Any], config: LSTMConfig, dtype: Any, device: str
) -> torch.nn.LSTM:
    import torch

    module = torch.nn.LSTM(
        config.input_size,
        config.hidden_size,
        config.num_layers,
        bias=config.bias,
        bidirectional=config.bidirectional,
        proj_size=config.proj_size,
        device="meta",  # no initial values, hence no draw from the caller's random state
        dtype=_torch_dtype(dtype),
    ).to_empty(device=device)
    state_dict = {
        _lstm_name(name, config): _tensor(np.asarray(value).astype(dtype), device)
        for name, value in params.items()
    }
    module.load_state_dict(state_dict, strict=True)
    return module.eval()


def _call(module: Any, x: torch.Tensor, state: Any, lengths: Any) -> tuple[torch.Tensor, ...]:
    from torch.nn.utils import rnn

    with warnings.catch_warnings():
        # Which of torch's CPU paths runs is no concern of the caller's.
        warnings.filterwarnings("ignore", message="LSTM with projections is not supported")
        if lengths is None:
            outputs, (h_n, c_n) = module(x, state)
        else:
            packed = rnn.pack_padded_sequence(x, lengths.tolist(), enforce_sorted=False)
            outputs, (h_n, c_n) = module(packed, state)
            outputs, _ = rnn.pad_packed_sequence(outputs, total_length=x.shape[0])
    return outputs, h_n, c_n


def _lstm_name(name: str, config: LSTMConfig) -> str:
    return f"{name}_l0" if isinstance(config, LSTMCellConfig) else name


def _own_name(name: str, config: LSTMConfig) -> str:
    return name.removesuffix("_l0") if isinstance(config, LSTMCellConfig) else name


def _torch_dtype(dtype: Any) -> torch.dtype:
    import torch

    return getattr(torch, np.dtype(dtype).name)


def _tensor(array: Any, device: str) -> torch.Tensor:
    """A tensor with an array's bits, and its own memory."""
    import torch

    array = np.array(array, order="C")
    if array.dtype == ml_dtypes.bfloat16:  # numpy and torch know it by different names
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).to(device)
    return torch.from_numpy(array).to(device)


def _array(tensor: torch.Tensor) -> np.ndarray:
    import torch

    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


@contextlib.contextmanager
def _pinned() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch_precision.pinned():
            yield
    finally:
        torch.set_num_threads(threads)
