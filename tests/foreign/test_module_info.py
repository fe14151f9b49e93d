"""PyTorch's samples and error inputs for nn.LSTM and nn.LSTMCell, from its own module tests.

The samples come from ``torch.testing._internal.common_modules``. Every error input of ``nn.LSTM``
and ``nn.LSTMCell`` is used. The error inputs of ``RNNCell`` and ``GRUCell`` add nothing: they
repeat those of ``LSTMCell`` with a single state tensor, and two concern ``nonlinearity``, which an
LSTM does not have.
"""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from itertools import chain
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import torch
from torch.testing._internal import common_modules as suite

from jaxlstm import LSTMCellConfig, LSTMConfig, PackedSequence, lstm, lstm_cell
from testing.bounds import assert_as_exact_as_torch, assert_equal_in_float64

both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)

jitted_lstm = jax.jit(lstm, static_argnames="config")
jitted_cell = jax.jit(lstm_cell)


def samples_of(function: Any, name: str, dtype: torch.dtype, count: int, **options: Any) -> list[Any]:
    """Return the suite's samples, drawn from torch's global seed. They have no dropout."""
    torch.manual_seed(0)
    info = next(info for info in suite.module_db if info.name == name)
    samples = list(function(info, device="cpu", dtype=dtype, requires_grad=False, training=False, **options))
    assert len(samples) == count
    return samples


def lstm_samples(dtype: torch.dtype) -> list[tuple[Any, Any, Any]]:
    """Return the module, the sample and our function for each sample of ``nn.LSTM``."""
    samples = samples_of(suite.module_inputs_torch_nn_LSTM, "nn.LSTM", dtype, 32)
    configs = [LSTMConfig(**sample.constructor_input.kwargs) for sample in samples]
    return [
        (build(torch.nn.LSTM, sample, dtype), sample, partial(jitted_lstm, config=config))
        for sample, config in zip(samples, configs, strict=True)
    ]


def build(module_class: type, sample: Any, dtype: torch.dtype) -> torch.nn.Module:
    """Build the sample's module with weights from a fixed seed."""
    torch.manual_seed(1)
    arguments = sample.constructor_input
    return module_class(*arguments.args, **arguments.kwargs).to(dtype)


def to_jax(value: Any) -> Any:
    """Convert a tensor, a packed sequence, or a tuple or dict of tensors to JAX."""
    if isinstance(value, torch.nn.utils.rnn.PackedSequence):
        return PackedSequence.from_torch(value)
    if isinstance(value, torch.Tensor):
        return jnp.asarray(value.detach().numpy())
    return jax.tree.map(to_jax, value)


def leaves(outputs: Any) -> list[Any]:
    """Flatten (outputs, (h, c)) or (h, c) to a list of arrays; a packed output gives its data."""
    if isinstance(outputs, (torch.nn.utils.rnn.PackedSequence, PackedSequence)):
        outputs = outputs.data
    if isinstance(outputs, tuple):
        return [leaf for part in outputs for leaf in leaves(part)]
    return [outputs.detach() if isinstance(outputs, torch.Tensor) else outputs]


def in_float64(value: Any) -> Any:
    if hasattr(value, "double"):
        return value.double()
    return tuple(in_float64(part) for part in value)


def results_of(module: torch.nn.Module, sample: Any, run: Any) -> tuple[list[Any], list[Any], list[Any]]:
    """Return the results of ``run(params, *inputs)``, of the module, and of the module in float64."""
    inputs = sample.forward_input.args
    with torch.no_grad():
        expected = leaves(module(*inputs))
        oracle = leaves(deepcopy(module).double()(*(in_float64(value) for value in inputs)))
    with jax.enable_x64(True):
        actual = leaves(run(to_jax(dict(module.state_dict())), *(to_jax(v) for v in inputs)))
    return actual, expected, oracle


def assert_agrees(module: torch.nn.Module, sample: Any, run: Any) -> None:
    """Assert that ``run(params, *inputs)`` agrees with the module on the sample's inputs."""
    actual, expected, oracle = results_of(module, sample, run)
    if expected[0].dtype == torch.float64:
        assert_equal_in_float64(actual, expected)
    else:
        assert_as_exact_as_torch(actual, expected, oracle, factor=4)


@both_dtypes
@pytest.mark.parametrize("index", range(32))
def test_lstm(index: int, dtype: torch.dtype) -> None:
    assert_agrees(*lstm_samples(dtype)[index])


def test_pooled_error_of_all_samples_is_at_most_twice_torchs() -> None:
    """A single sample is tiny; the pooled samples are held to the tighter bound of large ones."""
    results = (results_of(*sample) for sample in lstm_samples(torch.float32))
    pools = (list(chain(*arrays)) for arrays in zip(*results, strict=True))
    assert_as_exact_as_torch(*pools, factor=2)


@both_dtypes
@pytest.mark.parametrize("index", range(2))
def test_lstm_cell(index: int, dtype: torch.dtype) -> None:
    sample = samples_of(suite.module_inputs_torch_nn_LSTMCell, "nn.LSTMCell", dtype, 2)[index]
    assert_agrees(build(torch.nn.LSTMCell, sample, dtype), sample, jitted_cell)


@pytest.mark.parametrize("index", range(16))
def test_packed(index: int) -> None:
    """The suite has packed sequences only for GRU; an LSTM with the same arguments takes them too."""
    make, options = (suite.module_inputs_torch_nn_RNN_GRU, {"with_packed_sequence": True, "is_rnn": False})
    packed_class = torch.nn.utils.rnn.PackedSequence
    samples = [
        sample
        for sample in samples_of(make, "nn.GRU", torch.float64, 32, **options)
        if isinstance(sample.forward_input.args[0], packed_class)
    ]
    assert len(samples) == 16
    sample = samples[index]
    config = LSTMConfig(**sample.constructor_input.kwargs)

    # batch_sizes determine shapes, so the function closes over them.
    def run(params: Any, packed: PackedSequence) -> Any:
        return jax.jit(lambda data: lstm(params, packed._replace(data=data), config=config))(packed.data)

    assert_agrees(build(torch.nn.LSTM, sample, torch.float64), sample, run)


# Start of torch's message -> start of ours, where ours is not "ARGUMENT must be".
OUR_MESSAGES = {
    "input has inconsistent input_size": r"x must have shape \(batch, 10\) or \(10,\)",
    "hidden0 has inconsistent hidden_size": r"h must have shape \(3, 20\), got \(3, 21\)",
    "Input batch size 3 doesn't match": r"h must have shape \(3, 20\), got \(5, 20\)",
    "Expected hx": r"h must have shape \(3, 20\), got \(3, 1, 1, 20\)",
    "RNN input dtype": "inputs and params must have the same dtype, got inputs float(32|64)",
}


def our_message(torch_regex: str) -> str:
    for start, ours in OUR_MESSAGES.items():
        if torch_regex.startswith(start):
            return ours
    return torch_regex.split()[0] + " must be"  # "hidden_size must be greater than zero"


@both_dtypes
@pytest.mark.parametrize("index", range(4))
def test_lstm_cell_rejects(index: int, dtype: torch.dtype) -> None:
    error = samples_of(suite.module_error_inputs_torch_nn_LSTMCell, "nn.LSTMCell", dtype, 4)[index]
    module = build(torch.nn.LSTMCell, error.module_error_input, dtype)
    inputs = error.module_error_input.forward_input.args
    with pytest.raises(error.error_type, match=error.error_regex):
        module(*inputs)
    with jax.enable_x64(True), pytest.raises(ValueError, match=our_message(error.error_regex)):
        lstm_cell(to_jax(dict(module.state_dict())), *to_jax(inputs))


@both_dtypes
@pytest.mark.parametrize("index", range(14))
def test_lstm_rejects(index: int, dtype: torch.dtype) -> None:
    error = samples_of(suite.module_error_inputs_torch_nn_RNN_GRU, "nn.LSTM", dtype, 14)[index]
    arguments = error.module_error_input.constructor_input
    if error.error_on is suite.ModuleErrorEnum.CONSTRUCTION_ERROR:
        with pytest.raises(error.error_type, match=error.error_regex):
            torch.nn.LSTM(*arguments.args, **arguments.kwargs)
        with pytest.raises(error.error_type, match=our_message(error.error_regex)):
            LSTMConfig(*arguments.args, **arguments.kwargs)
        return
    module = torch.nn.LSTM(*arguments.args, **arguments.kwargs)
    inputs = error.module_error_input.forward_input.args
    with pytest.raises(error.error_type, match=error.error_regex):
        module(*inputs)
    config = LSTMConfig(*arguments.args)
    with jax.enable_x64(True), pytest.raises(TypeError, match=our_message(error.error_regex)):
        lstm(to_jax(dict(module.state_dict())), *to_jax(inputs), config=config)


@pytest.mark.parametrize("sizes", [(0, 5), (-1, 5), (3.0, 5), ("10", 5), (3, 0), (3, 5.0)])
def test_cell_config_rejects_invalid_sizes(sizes: tuple) -> None:
    """LSTMCellConfig makes the checks of ``nn.LSTM``, which ``nn.LSTMCell`` lacks."""
    with pytest.raises((ValueError, TypeError), match=r"(input|hidden)_size must be"):
        LSTMCellConfig(*sizes)
