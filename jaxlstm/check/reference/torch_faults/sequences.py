"""Faults of masks, and of LSTMs, GRUs and RNNs inside a model.

The faults of an LSTM over packed sequences read zeros in the padding, whose contents torch dropped.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from jaxlstm._shared.torch_tensors import numpy_to_tensor, tensor_to_numpy
from jaxlstm.check.reference.faults.catalogue import Fault, catalogue
from jaxlstm.check.reference.oracle import OracleCall
from jaxlstm.check.reference.torch_faults.operation import Operation, Variant, changed, faults_of, missing
from jaxlstm.layer.config import LSTMConfig
from jaxlstm.layer.params import config_of_weights, param_shapes


@faults_of("masked_fill")
def masking(operation: Operation) -> Iterator[Variant]:
    """Yield the faults of the mask."""
    yield Variant("the mask of {where} is inverted", lambda op: op.run(mask=~op.get("mask")))
    yield missing()


@faults_of("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(operation: Operation) -> Iterator[Variant]:
    """Yield faults of ``torch.lstm``, ``torch.gru`` and the like.

    Some faults confuse h_n with the outputs.
    """
    arguments = operation.arguments
    packed = "batch_sizes" in arguments
    if not packed:
        first = arguments["batch_first"]
        yield Variant(f"{{where}} has batch_first={not first} instead of {first}", _flip_batch_first)
    yield Variant("in {where}, the last step of the outputs is read instead of h_n", _as_h_n)
    if not packed:
        yield Variant("in {where}, h_n is read instead of the last step of the outputs", _h_n_as_outputs)
    if operation.name != "lstm":
        return
    for fault in catalogue(_config(arguments)):
        if not fault.rounding:
            yield Variant(f"in {{where}}, {fault.cause}", partial(_run_oracle, fault=fault))


@faults_of("pack_padded_sequence")
def packing(operation: Operation) -> Iterator[Variant]:
    """Yield the fault of a port that runs over the padding too."""
    time, lengths = operation.get("input").shape[bool(operation.get("batch_first"))], operation.get("lengths")
    if bool((lengths < time).any()):
        yield changed("{where} ignores the lengths", lengths=lengths.new_full(lengths.shape, time))


def _flip_batch_first(operation: Operation) -> Any:
    """Run over the other axis, from a state of the other batch size if it is zero."""
    first = not operation.get("batch_first")
    x, state = operation.get("input"), operation.get("hx")
    batch = x.shape[0 if first else 1]
    states = state if isinstance(state, (tuple, list)) else (state,)
    if all(bool((h == 0).all()) for h in states):
        zeros = [h.new_zeros(h.shape[0], batch, h.shape[2]) for h in states]
        state = zeros if len(zeros) > 1 else zeros[0]
    return operation.run(batch_first=first, hx=state)


def _as_h_n(operation: Operation) -> Any:
    """Return the last step of the outputs as h_n of the last layer. It is zero in rows that have ended."""
    arguments, (outputs, h_n, *c_n) = operation.arguments, operation.run()
    y = outputs.swapaxes(0, 1) if operation.get("batch_first") else outputs
    if "batch_sizes" in arguments:
        valid = _valid_steps(arguments["batch_sizes"], h_n.shape[1])
        y = outputs.new_zeros(*valid.shape, outputs.shape[-1])
        y[numpy_to_tensor(valid)] = outputs
    h_n, directions = h_n.clone(), 2 if arguments["bidirectional"] else 1
    h_n[-directions:] = y[-1].unflatten(-1, (directions, -1)).movedim(-2, 0)
    return outputs, h_n, *c_n


def _h_n_as_outputs(operation: Operation) -> Any:
    """Return h_n of the last layer as the last step of the outputs."""
    outputs, h_n, *c_n = operation.run()
    outputs, directions = outputs.clone(), 2 if operation.get("bidirectional") else 1
    step = outputs.select(1 if operation.get("batch_first") else 0, -1)
    step.copy_(h_n[-directions:].movedim(0, -2).flatten(-2))
    return outputs, h_n, *c_n


def _valid_steps(batch_sizes: Any, batch: int) -> np.ndarray:
    """Return the steps of packed sequences that are not padding, (T, B)."""
    return np.arange(batch) < tensor_to_numpy(batch_sizes)[:, None]


def _config(arguments: Mapping[str, Any]) -> LSTMConfig:
    names = ("has_biases", "num_layers", "bidirectional")
    shapes = [tuple(weight.shape) for weight in arguments["params"]]
    return config_of_weights(LSTMConfig, shapes, **{name: arguments[name] for name in names})


def _run_oracle(operation: Operation, *, fault: Fault) -> Any:
    """Return the outputs and states of the oracle with a fault."""
    from jaxlstm.check.reference.torch_double import to_tensor

    arguments = operation.arguments
    config, first = _config(arguments), arguments.get("batch_first")
    x, h, c = map(tensor_to_numpy, (arguments["input"], *arguments["hx"]))
    params = dict(zip(param_shapes(config), map(tensor_to_numpy, arguments["params"]), strict=True))
    inputs = x.swapaxes(0, 1) if first else x
    valid = np.ones(inputs.shape[:2], bool)
    if packed := "batch_sizes" in arguments:
        valid = _valid_steps(arguments["batch_sizes"], h.shape[1])
        inputs = np.zeros((*valid.shape, x.shape[1]), x.dtype)
        inputs[valid] = x
    call = fault.apply(OracleCall.of(params, inputs, (h, c), valid.sum(0), config))
    outputs, h_n, c_n, _ = call.finished(call.run())
    outputs = outputs[valid] if packed else outputs
    arrays = (outputs.swapaxes(0, 1) if first else outputs, h_n, c_n)
    return tuple(to_tensor(a.astype(x.dtype)) for a in arrays)
