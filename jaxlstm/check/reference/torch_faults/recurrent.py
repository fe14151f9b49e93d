"""Faults of an LSTM inside a model: the axes of its input, and the catalogue of faults of ``verify``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxlstm._shared.torch_tensors import numpy_to_tensor, tensor_to_numpy
from jaxlstm.check.faults.catalogue import catalogue
from jaxlstm.check.faults.fault import Fault, OracleCall
from jaxlstm.check.reference import oracle
from jaxlstm.check.reference.torch_faults.operation import Operation, Variant
from jaxlstm.config import LSTMConfig
from jaxlstm.params import param_shapes


def recurrent(operation: Operation) -> Iterator[Variant]:
    """Yield faults of ``torch.lstm``. An LSTM over packed sequences has none."""
    if not isinstance(operation.get("hx"), (tuple, list)):
        return
    first = operation.get("batch_first")
    yield Variant(f"{{where}} has batch_first={not first} instead of {first}", _flip_batch_first)
    config = _config(operation)
    for fault in catalogue(config):
        if not fault.rounding:
            yield Variant(f"in {{where}}, {fault.cause}", lambda op, fault=fault: _run_oracle(op, fault))


def _flip_batch_first(operation: Operation) -> Any:
    """Run the LSTM over the other axis, from a state of the other batch size if it is zero."""
    first = not operation.get("batch_first")
    x, state = operation.get("input"), operation.get("hx")
    batch = x.shape[0 if first else 1]
    if all(bool((h == 0).all()) for h in state):
        state = tuple(h.new_zeros(h.shape[0], batch, h.shape[2]) for h in state)
    return operation.run(batch_first=first, hx=state)


def _config(operation: Operation) -> LSTMConfig:
    weights = operation.get("params")
    bias, directions = operation.get("has_biases"), 2 if operation.get("bidirectional") else 1
    each = len(weights) // (operation.get("num_layers") * directions)
    hidden, projected = weights[0].shape[0] // 4, each > (4 if bias else 2)
    return LSTMConfig(
        weights[0].shape[1],
        hidden,
        operation.get("num_layers"),
        bias=bias,
        bidirectional=operation.get("bidirectional"),
        proj_size=weights[each - 1].shape[0] if projected else 0,
    )


def _run_oracle(operation: Operation, fault: Fault) -> Any:
    """Return the outputs and states of the oracle with a fault."""
    config, first = _config(operation), operation.get("batch_first")
    x, h, c = map(tensor_to_numpy, (operation.get("input"), *operation.get("hx")))
    params = dict(zip(param_shapes(config), map(tensor_to_numpy, operation.get("params")), strict=True))
    inputs = x.swapaxes(0, 1) if first else x
    call = OracleCall(params, inputs, (h, c), oracle.lengths_of(None, inputs), config)
    results = fault.apply(call).results()
    arrays = [results.outputs, results.h_n, results.c_n]
    if first:
        arrays[0] = results.outputs.swapaxes(0, 1)
    return tuple(numpy_to_tensor(np.array(a, x.dtype, order="C")) for a in arrays)
