"""Faults of attention, of masks and of LSTMs, GRUs and RNNs inside a model.

The faults of an LSTM over packed sequences read zeros in the padding, whose contents torch dropped.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from jaxlstm._shared.torch_tensors import numpy_to_tensor, tensor_to_numpy
from jaxlstm.check.reference.faults.catalogue import catalogue
from jaxlstm.check.reference.faults.fault import Fault
from jaxlstm.check.reference.oracle import OracleCall
from jaxlstm.check.reference.torch_faults.operation import Operation, Variant, changed, faults_of, missing
from jaxlstm.layer.config import LSTMConfig
from jaxlstm.layer.params import config_of_weights, param_shapes

Parts = list[Any]
"""The three parts of a packed projection: those of query, key and value."""


@faults_of("masked_fill", "where", "scaled_dot_product_attention", "multi_head_attention_forward")
def masks(operation: Operation) -> Iterator[Variant]:
    """Yield the faults of the arguments that are masks."""
    for name in ("mask", "condition", "key_padding_mask", "attn_mask"):
        if not hasattr(operation.get(name), "dtype"):
            continue
        cause = f"the {name} of {{where}} is inverted"
        yield Variant(cause, lambda op, name=name: op.run(**{name: _inverted(op.get(name))}))
        if name in ("attn_mask", "key_padding_mask"):
            yield changed(f"{{where}} has no {name}", **{name: None})
        elif operation.name == "masked_fill":
            yield missing()


def _inverted(mask: Any) -> Any:
    """Invert a mask of bools, or one of zeros and minus infinity that is added to the scores.

    The result for scores is finite, as in Flax: a row that is masked everywhere then gives a mean.
    """
    import torch

    if mask.dtype == torch.bool:
        return ~mask
    return torch.zeros_like(mask).masked_fill(mask == 0, torch.finfo(mask.dtype).min)


@faults_of("scaled_dot_product_attention")
def dot_product(operation: Operation) -> Iterator[Variant]:
    """Yield faults of ``scaled_dot_product_attention``."""
    yield changed("{where} does not scale the scores", scale=1.0)
    if operation.get("attn_mask") is None:
        causal = operation.get("is_causal", False)
        words = "is not causal" if causal else "is causal"
        yield changed(f"{{where}} {words}", is_causal=not causal)


@faults_of("multi_head_attention_forward")
def multi_head(operation: Operation) -> Iterator[Variant]:
    """Yield faults of ``multi_head_attention_forward``."""
    heads, rows = operation.get("num_heads"), operation.get("embed_dim_to_check")
    if operation.get("in_proj_bias") is not None:
        yield changed("the projections of {where} have no bias", in_proj_bias=None)
        no_bias = operation.get("out_proj_bias") * 0
        yield changed("the output of {where} has no bias", out_proj_bias=no_bias)
    if operation.get("in_proj_weight") is None:
        return
    scale = (rows // heads) ** 0.5
    yield Variant(
        "{where} does not scale the scores",
        partial(_projected, change=lambda parts: [parts[0] * scale, *parts[1:]]),
    )
    heads_last = [d * heads + h for h, d in itertools.product(range(heads), range(rows // heads))]
    yield Variant(
        "{where} has its heads as (size, heads) instead of (heads, size)",
        lambda op: _projected(
            op,
            lambda parts: [part[heads_last] for part in parts],
            out_proj_weight=op.get("out_proj_weight")[:, heads_last],
        ),
    )
    for order, words in (
        ((1, 0, 2), "query and key"),
        ((0, 2, 1), "key and value"),
        ((2, 1, 0), "query and value"),
    ):
        yield Variant(
            f"the {words} projections of {{where}} are swapped",
            partial(_projected, change=lambda parts, order=order: [parts[k] for k in order]),
        )
    if heads > 1:
        yield changed("{where} has one head", num_heads=1)


def _projected(operation: Operation, change: Callable[[Parts], Parts], **changes: Any) -> Any:
    """Run the attention with another packed weight and bias of its projections."""
    import torch

    for name in ("in_proj_weight", "in_proj_bias"):
        if (packed := operation.get(name)) is not None:
            changes[name] = torch.cat(change(packed.chunk(3)))
    return operation.run(**changes)


_PACKED = (
    *("input", "batch_sizes", "hx", "params", "has_biases", "num_layers"),
    *("dropout", "train", "bidirectional"),
)
"""The arguments of ``torch.lstm``, ``torch.gru`` and the like over packed sequences."""


_READ: dict[str, Callable[[Any], Any]] = {
    "last step": lambda y: y[-1],
    "mean": lambda y: y.mean(0),
    "maximum": lambda y: y.amax(0),
}
"""Summaries of the outputs (T, B, features) that a port may read instead of h_n."""


@faults_of("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(operation: Operation) -> Iterator[Variant]:
    """Yield faults of ``torch.lstm``, ``torch.gru`` and the like.

    Among them are those of a port that confuses h_n with the outputs.
    """
    arguments = _arguments(operation)
    packed = "batch_sizes" in arguments
    if not packed:
        first = arguments["batch_first"]
        yield Variant(f"{{where}} has batch_first={not first} instead of {first}", _flip_batch_first)
    for what, read in _READ.items():
        cause = f"in {{where}}, the {what} of the outputs is read instead of h_n"
        yield Variant(cause, partial(_as_h_n, read=read))
    for end, which in () if packed else ((-1, "last"), (0, "first")):
        cause = f"in {{where}}, h_n is read instead of the {which} step of the outputs"
        yield Variant(cause, partial(_h_n_as_outputs, end=end))
    if operation.name != "lstm":
        yield from _of_hidden_state(operation)
        return
    for fault in catalogue(_config(arguments)):
        if not fault.rounding:
            yield Variant(f"in {{where}}, {fault.cause}", partial(_run_oracle, fault=fault))


def _of_hidden_state(operation: Operation) -> Iterator[Variant]:
    """Yield the faults of a GRU or RNN that the catalogue of the LSTM does not run."""
    arguments = _arguments(operation)
    no_state = arguments["hx"] * 0
    yield Variant("in {where}, the initial state is ignored", lambda op: _run(op, hx=no_state))
    if arguments["bidirectional"]:
        cause = "in {where}, the reverse direction's outputs come first in the last layer"
        yield Variant(cause, _reverse_first)
    if operation.name != "gru":
        other = {"rnn_tanh": "rnn_relu", "rnn_relu": "rnn_tanh"}[operation.name]
        yield Variant(f"{{where}} is {other}", partial(_run_function, name=other))
        return
    params, names = arguments["params"], _param_names(arguments)
    single = [(name, [place]) for place, name in enumerate(names)]
    for name, places in [("all weights and biases", range(len(params))), *single]:
        cause = f"in {{where}}, the rows of the gates r and z of {name} are swapped"
        yield Variant(cause, partial(_gates_swapped, places=places))
    first = range(2, len(params), 4) if arguments["has_biases"] else ()
    for name, places in [("all layers", first), *((names[place][8:], [place]) for place in first)]:
        cause = f"in {{where}}, bias_ih and bias_hh of {name} are swapped"
        yield Variant(cause, partial(_biases_swapped, places=places))


def _param_names(arguments: Mapping[str, Any]) -> list[str]:
    """Return the names of the parameters of a GRU or RNN."""
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[: 4 if arguments["has_biases"] else 2]
    ends = ("", "_reverse")[: 2 if arguments["bidirectional"] else 1]
    return [f"{kind}_l{k}{end}" for k in range(arguments["num_layers"]) for end in ends for kind in kinds]


def _run(operation: Operation, **changes: Any) -> Any:
    """Run an operation with changed arguments, under the names of :func:`_arguments`."""
    names = dict(zip(_arguments(operation), operation.arguments, strict=True))
    return operation.run(**{names[name]: value for name, value in changes.items()})


def _run_function(operation: Operation, *, name: str) -> Any:
    import torch

    return replace(operation, function=getattr(torch, name)).run()


def _reverse_first(operation: Operation) -> Any:
    outputs, *states = operation.run()
    return outputs.roll(outputs.shape[-1] // 2, -1), *states


def _gates_swapped(operation: Operation, *, places: Iterable[int]) -> Any:
    params = list(_arguments(operation)["params"])
    for place in places:
        params[place] = params[place].unflatten(0, (3, -1))[[1, 0, 2]].flatten(0, 1)
    return _run(operation, params=params)


def _biases_swapped(operation: Operation, *, places: Iterable[int]) -> Any:
    params = list(_arguments(operation)["params"])
    for place in places:
        params[place : place + 2] = reversed(params[place : place + 2])
    return _run(operation, params=params)


@faults_of("pack_padded_sequence")
def packing(operation: Operation) -> Iterator[Variant]:
    """Yield the fault of a port that runs over the padding too."""
    time, lengths = operation.get("input").shape[bool(operation.get("batch_first"))], operation.get("lengths")
    if bool((lengths < time).any()):
        yield changed("{where} ignores the lengths", lengths=lengths.new_full(lengths.shape, time))


def _arguments(operation: Operation) -> Mapping[str, Any]:
    """Return the arguments by name; ``batch_sizes`` is among them if the sequences are packed."""
    if isinstance(operation.get("has_biases"), bool):
        return operation.arguments
    return dict(zip(_PACKED, operation.arguments.values(), strict=True))


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


def _as_h_n(operation: Operation, *, read: Callable[[Any], Any]) -> Any:
    """Return h_n of the last layer as read from the outputs, which are zero in rows that have ended."""
    arguments, (outputs, h_n, *c_n) = _arguments(operation), operation.run()
    y = outputs.swapaxes(0, 1) if operation.get("batch_first") else outputs
    if "batch_sizes" in arguments:
        valid = _valid_steps(arguments["batch_sizes"], h_n.shape[1])
        y = outputs.new_zeros(*valid.shape, outputs.shape[-1])
        y[numpy_to_tensor(valid)] = outputs
    h_n, directions = h_n.clone(), 2 if arguments["bidirectional"] else 1
    h_n[-directions:] = read(y).unflatten(-1, (directions, -1)).movedim(-2, 0)
    return outputs, h_n, *c_n


def _h_n_as_outputs(operation: Operation, *, end: int) -> Any:
    """Return the outputs at an end as h_n of the last layer."""
    outputs, h_n, *c_n = operation.run()
    outputs, directions = outputs.clone(), 2 if _arguments(operation)["bidirectional"] else 1
    step = outputs.select(1 if operation.get("batch_first") else 0, end)
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
    arguments = _arguments(operation)
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
    return tuple(numpy_to_tensor(np.array(a, x.dtype, order="C")) for a in arrays)
