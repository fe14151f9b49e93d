"""cuDNN: it runs on an NVIDIA GPU alone, so here JAX's own reference of it stands in, on our packed weights.

What is tried is all that is ours: the layout of the weights, which arguments go where, ragged lengths,
dropout, and what is refused. ``jax.experimental.rnn.lstm_ref`` is written by the same authors for the same
layout.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import rnn

from jaxlstm import (
    LSTMConfig,
    LSTMState,
    inference,
    init_params,
    lstm,
    pack_padded_sequence,
)
from jaxlstm.kernels.gpu import cudnn
from tests.support.agreement import check, functional
from tests.support.cases import CASES, Case

SUPPORTED = [case for case in CASES if case.config.proj_size == 0]
FEW = SUPPORTED[3::9]  # which cover every pair of settings of two columns
CONFIG = LSTMConfig(3, 5, num_layers=2, bidirectional=True)


def reference(
    x: Any, h_0: Any, c_0: Any, weights: Any, lengths: Any, *static: Any
) -> tuple[Any, Any, Any]:
    """``rnn.lstm`` in plain JAX, of the same arguments."""
    input_size, hidden_size, num_layers, dropout, bidirectional, precision = static
    assert x.shape[2] == input_size
    assert precision == lax.Precision.HIGHEST
    sizes = (input_size, hidden_size, num_layers, bidirectional)
    assert weights.shape == (rnn.get_num_params_in_lstm(*sizes),)
    unpacked = rnn.unpack_lstm_weights(weights, *sizes)
    return rnn.lstm_ref(
        x, h_0, c_0, *unpacked, lengths, input_size, hidden_size, num_layers, dropout, bidirectional
    )


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rnn, "lstm", reference)
    monkeypatch.setattr(cudnn, "require_device", lambda: None)
    monkeypatch.setattr(cudnn, "_on_cuda", lambda lengths: lengths)


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    "case",
    [case if case in FEW else pytest.param(case, marks=pytest.mark.slow) for case in SUPPORTED],
    ids=str,
)
def test_values_and_gradients_over_the_table(case: Case) -> None:
    check(case, np.float32, functional(case, "cudnn"))


def drawn(config: LSTMConfig = CONFIG, dtype: Any = jnp.float32) -> tuple[Any, Any, LSTMState]:
    """params, inputs of five steps and three sequences, and a state."""
    rng = np.random.default_rng(0)
    shapes = config.state_shapes(3)
    params = init_params(jax.random.key(0), config, dtype=dtype)
    inputs = jnp.asarray(rng.standard_normal((5, 3, config.input_size)), dtype)
    return params, inputs, LSTMState(*(jnp.asarray(rng.standard_normal(s), dtype) for s in shapes))


def assert_close(found: Any, expected: Any) -> None:
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("stand_in")
def test_a_packed_sequence() -> None:
    config = LSTMConfig(3, 5, bidirectional=True)
    params, inputs, state = drawn(config)
    packed = pack_padded_sequence(inputs, [2, 5, 3], enforce_sorted=False)
    run = lambda how: jax.jit(lambda x: lstm(params, x, state, config=config, backend=how))(packed)  # noqa: E731
    assert_close(run("cudnn"), run("scan"))


@pytest.mark.usefixtures("stand_in")
def test_a_length_of_zero_leaves_the_state() -> None:
    """And one beyond the last step is all steps: what cuDNN itself does not take."""
    config = LSTMConfig(3, 5, bidirectional=True)
    params, inputs, state = drawn(config)
    run: Any = lambda n, how: lstm(  # noqa: E731
        params, inputs, state, config=config, seq_lengths=n, backend=how
    )
    lengths = jnp.array([0, 7, 3])
    found, expected = (jax.jit(partial(run, how=how))(lengths) for how in ("cudnn", "scan"))
    assert_close(found, expected)


@pytest.mark.usefixtures("stand_in")
def test_a_runner() -> None:
    """Rows that end within a chunk and before it, in short chunks and in long ones."""
    params, _, _ = drawn()
    inputs = np.random.default_rng(1).standard_normal((300, 3, 3)).astype(np.float32)
    lengths = np.array([300, 17, 131])
    options: Any = {"max_length": 300, "max_batch": 4}
    found, expected = (
        inference.compile(params, CONFIG, backend=how, **options)(inputs, None, lengths)
        for how in ("cudnn", "scan")
    )
    assert_close(found, expected)


@pytest.mark.usefixtures("stand_in")
def test_dropout_between_layers_has_the_masks_of_the_other_backends() -> None:
    config = LSTMConfig(3, 5, num_layers=2, dropout=0.5)
    params, inputs, state = drawn(config)
    options: Any = {"config": config, "dropout_key": jax.random.key(1)}
    run = lambda how: jax.jit(lambda x: lstm(params, x, state, backend=how, **options))(inputs)  # noqa: E731
    assert_close(run("cudnn"), run("scan"))


@pytest.mark.usefixtures("stand_in")
def test_one_call_for_all_layers() -> None:
    params, inputs, state = drawn()
    shapes = jax.eval_shape(
        lambda *a: lstm(*a, config=CONFIG, backend="cudnn"), params, inputs, state
    )
    assert [leaf.shape for leaf in jax.tree.leaves(shapes)] == [(5, 3, 10), (4, 3, 5), (4, 3, 5)]
    packed = cudnn.pack(params, CONFIG, range(2))
    found = rnn.unpack_lstm_weights(packed, 3, 5, 2, True)
    for number, end in enumerate(("l0", "l0_reverse", "l1", "l1_reverse")):
        for name, leaves in zip(
            ("weight_ih", "weight_hh", "bias_ih", "bias_hh"), found, strict=True
        ):
            np.testing.assert_array_equal(leaves[number], params[f"{name}_{end}"])


def test_precision_is_handed_on() -> None:
    assert (
        cudnn.cudnn_precision("highest")
        == cudnn.cudnn_precision("float32")
        == lax.Precision.HIGHEST
    )
    assert cudnn.cudnn_precision("high") == cudnn.cudnn_precision("default") == lax.Precision.HIGH
    for precision, tf32 in (("highest", False), ("high", True), ("bfloat16", True)):
        assert rnn._lstm_cudnn_allow_tf32(cudnn.cudnn_precision(precision)) == tf32


def test_what_it_has_not_is_refused() -> None:
    run = lambda config, dtype: lstm(*drawn(config, dtype), config=config, backend="cudnn")  # noqa: E731
    with pytest.raises(
        RuntimeError, match=r"backend='cudnn' does not support a projection, got proj_size=2"
    ):
        run(LSTMConfig(3, 5, proj_size=2), jnp.float32)
    with pytest.raises(RuntimeError, match=r"backend='cudnn' supports float32, got bfloat16"):
        run(CONFIG, jnp.bfloat16)


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there is a GPU here")
def test_without_a_gpu_it_says_so() -> None:
    params, inputs, state = drawn()
    with pytest.raises(
        RuntimeError, match=r"backend='cudnn' needs an NVIDIA GPU .* use backend='auto'"
    ):
        lstm(params, inputs, state, config=CONFIG, backend="cudnn")


def test_a_program_for_another_device_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rnn, "lstm", reference)
    monkeypatch.setattr(cudnn, "require_device", lambda: None)
    params, inputs, state = drawn()
    run = jax.jit(lambda *a: lstm(*a, config=CONFIG, backend="cudnn"))
    with pytest.raises(NotImplementedError, match=r"backend='cudnn' has kernels for cuda"):
        run.trace(params, inputs, state).lower(lowering_platforms=("cpu",))
