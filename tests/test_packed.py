"""Packed sequences against torch: the fields, padding, and the LSTM on packed batches."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn.utils import rnn

import jaxlstm
from jaxlstm import PackedSequence, pack_padded_sequence, pad_packed_sequence

LENGTHS = {"sorted": [6, 4, 4, 2, 1], "unsorted": [2, 6, 1, 4, 4]}


def padded(batch_first: bool) -> np.ndarray:
    shape = (5, 6, 3) if batch_first else (6, 5, 3)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def to_torch(packed: PackedSequence) -> rnn.PackedSequence:
    fields: Any = (None if f is None else torch.tensor(f) for f in packed.to_numpy())
    return rnn.PackedSequence(*fields)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("order", LENGTHS)
def test_pack_against_torch(order: str, batch_first: bool) -> None:
    x, enforce = padded(batch_first), order == "sorted"
    ours = pack_padded_sequence(x, LENGTHS[order], batch_first, enforce_sorted=enforce)
    theirs = rnn.pack_padded_sequence(torch.tensor(x), LENGTHS[order], batch_first, enforce)
    np.testing.assert_array_equal(ours.data, theirs.data.numpy())
    np.testing.assert_array_equal(ours.batch_sizes, theirs.batch_sizes.numpy())
    assert (ours.sorted_indices is None) == (theirs.sorted_indices is None)
    # The order of sequences of equal length is arbitrary, so compare after unpacking with each library.
    for source in (to_torch(ours), theirs):
        again, lengths = rnn.pad_packed_sequence(source, batch_first)
        back, lengths_back = pad_packed_sequence(PackedSequence.from_torch(source), batch_first)
        np.testing.assert_array_equal(back, again.numpy())
        np.testing.assert_array_equal(lengths_back, lengths.numpy())
        np.testing.assert_array_equal(lengths_back, LENGTHS[order])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_from_torch(dtype: torch.dtype) -> None:
    x = torch.tensor(padded(False)).to(dtype)
    theirs = rnn.pack_padded_sequence(x, LENGTHS["sorted"])
    ours = PackedSequence.from_torch(theirs)
    assert str(ours.data.dtype) == str(dtype).removeprefix("torch.")
    np.testing.assert_array_equal(ours.data.astype(np.float32), theirs.data.float().numpy())


def test_integer_data_from_torch() -> None:
    theirs = rnn.pack_padded_sequence(torch.ones(3, 2, 1, dtype=torch.int64), [3, 1])
    with pytest.raises(TypeError, match=r"^data must be float16, .*got int64"):
        PackedSequence.from_torch(theirs)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(("value", "total"), [(0.0, None), (-1.5, 6), (7.0, 9)])
def test_pad_against_torch(value: float, total: int | None, batch_first: bool) -> None:
    x = torch.tensor(padded(batch_first))
    theirs = rnn.pack_padded_sequence(x, LENGTHS["unsorted"], batch_first, enforce_sorted=False)
    expected, _ = rnn.pad_packed_sequence(theirs, batch_first, value, total)
    ours, lengths = pad_packed_sequence(PackedSequence.from_torch(theirs), batch_first, value, total)
    np.testing.assert_array_equal(ours, expected.numpy())
    np.testing.assert_array_equal(lengths, LENGTHS["unsorted"])


@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("with_state", [True, False])
@pytest.mark.parametrize("order", LENGTHS)
def test_lstm_on_packed_sequences(order: str, with_state: bool, jit: bool) -> None:
    module = torch.nn.LSTM(3, 5, num_layers=2, bidirectional=True, batch_first=True)
    params, config = jaxlstm.from_torch(module)
    x = torch.tensor(padded(True))
    theirs = rnn.pack_padded_sequence(x, LENGTHS[order], True, enforce_sorted=order == "sorted")
    state = (torch.randn(4, 5, 5), torch.randn(4, 5, 5)) if with_state else None
    expected, (h_n, c_n) = module(theirs, state)
    packed = PackedSequence.from_torch(theirs)
    given: Any = None if state is None else tuple(s.numpy() for s in state)
    if jit and order == "unsorted":
        run = jax.jit(lambda p, x, s: jaxlstm.lstm(p, x, s, config=config))
        outputs, final = run(params, packed, given)
    elif jit:  # the batch size of a batch that came sorted is in the values of batch_sizes
        run = jax.jit(lambda p, data, s: jaxlstm.lstm(p, packed._replace(data=data), s, config=config))
        outputs, final = run(params, packed.data, given)
    else:
        outputs, final = jaxlstm.lstm(params, packed, given, config=config)
    for ours, truth in (
        (outputs.data, expected.data),
        (final.h, h_n),
        (final.c, c_n),
        (pad_packed_sequence(outputs)[0], rnn.pad_packed_sequence(expected)[0]),
    ):
        np.testing.assert_allclose(ours, truth.detach().numpy(), rtol=0, atol=3e-7)


def test_modules_take_packed_sequences() -> None:
    packed = pack_padded_sequence(padded(False), LENGTHS["unsorted"], enforce_sorted=False)
    config = jaxlstm.LSTMConfig(3, 5)
    params = jaxlstm.init_params(jax.random.key(0), config)
    expected = jaxlstm.lstm(params, packed, config=config)[0]
    for outputs in (
        jaxlstm.nnx.LSTM.from_params(params, config)(packed)[0],
        jaxlstm.linen.LSTM(3, 5).apply({"params": params}, packed)[0],
    ):
        np.testing.assert_array_equal(outputs.data, expected.data)
        np.testing.assert_array_equal(outputs.batch_sizes, expected.batch_sizes)


def packed_lstm(data: Any, batch_sizes: list[int]) -> Any:
    config = jaxlstm.LSTMConfig(3, 5)
    params = jaxlstm.init_params(jax.random.key(0), config)
    return jaxlstm.lstm(params, PackedSequence(data, batch_sizes), config=config)


BAD_CALLS: dict[type[Exception], list[tuple[Any, ...]]] = {
    ValueError: [
        (lambda x: pack_padded_sequence(x, [1, 2, 3, 4, 5]), "lengths must be decreasing .*enforce_sorted"),
        (lambda x: pack_padded_sequence(x, [7, 5, 4, 3, 1]), "lengths must be between 1 and"),
        (lambda x: pack_padded_sequence(x, [6, 5]), r"lengths must have shape \(5,\)"),
        (
            lambda x: pad_packed_sequence(pack_padded_sequence(x, [6] * 5), total_length=5),
            "total_length must be at least the longest sequence, 6; got 5",
        ),
        (
            lambda x: jax.jit(pad_packed_sequence)(pack_padded_sequence(x, [6] * 5)),
            "batch size of a PackedSequence .* is unknown under jax.jit",
        ),
        (
            lambda x: jaxlstm.lstm(
                {}, pack_padded_sequence(x, [6] * 5), config=jaxlstm.LSTMConfig(3, 5), seq_lengths=[6] * 5
            ),
            "seq_lengths must be None with a PackedSequence",
        ),
        (lambda x: packed_lstm(x[0], [3, 3]), r"batch_sizes must be .* data, 5; got \[3, 3\]"),
    ],
    TypeError: [
        (lambda x: jax.jit(pack_padded_sequence)(x, jnp.array([6, 5, 4, 3, 1])), "lengths must be concrete")
    ],
}


@pytest.mark.parametrize(
    ("error", "call", "message"), [(error, *row) for error, rows in BAD_CALLS.items() for row in rows]
)
def test_bad_calls(call: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        call(padded(False))
