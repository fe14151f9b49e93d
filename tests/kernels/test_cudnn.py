"""cuDNN, replaced by JAX's reference implementation, because cuDNN needs an NVIDIA GPU.

``jax.experimental.rnn.lstm_ref`` takes the same packed weights as cuDNN. The tests cover the code of this
project: weight layout, order of arguments, ragged lengths, dropout and errors.
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

from jaxlstm import LSTMConfig, LSTMState, init_params, lstm
from jaxlstm.kernels.gpu import cudnn
from testing.cases import CASES, Case, check, functional
from testing.problems import worst_error

SUPPORTED = [case for case in CASES if case.config.proj_size == 0]
PAIRWISE = SUPPORTED[3::9]  # every combination of any two settings
CONFIG = LSTMConfig(3, 5, num_layers=2, bidirectional=True)

pytestmark = pytest.mark.usefixtures("fast_compilation")


def reference(x: Any, h_0: Any, c_0: Any, weights: Any, lengths: Any, *static: Any) -> tuple[Any, Any, Any]:
    """Run :func:`rnn.lstm_ref` with the arguments of :func:`rnn.lstm`."""
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
def reference_for_cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rnn, "lstm", reference)
    monkeypatch.setattr(cudnn, "require_device", lambda: None)
    monkeypatch.setattr(cudnn, "_on_cuda", lambda lengths: lengths)


@pytest.mark.usefixtures("reference_for_cudnn")
@pytest.mark.parametrize(
    "case",
    [case if case in PAIRWISE else pytest.param(case, marks=pytest.mark.slow) for case in SUPPORTED],
    ids=str,
)
def test_values_and_gradients(case: Case) -> None:
    check(case, np.float32, functional(case, "cudnn"))


def drawn(config: LSTMConfig = CONFIG, dtype: Any = jnp.float32) -> tuple[Any, Any, LSTMState]:
    """Draw params, inputs of five steps and three sequences, and a state."""
    rng = np.random.default_rng(0)
    shapes = config.state_shapes(3)
    params = init_params(jax.random.key(0), config, dtype=dtype)
    inputs = jnp.asarray(rng.standard_normal((5, 3, config.input_size)), dtype)
    return params, inputs, LSTMState(*(jnp.asarray(rng.standard_normal(s), dtype) for s in shapes))


def assert_matches_the_scan(config: LSTMConfig, lengths: Any = None, **options: Any) -> None:
    """Compare both backends; the lengths are traced."""
    params, inputs, state = drawn(config)
    actual, expected = (
        jax.jit(partial(lstm, params, inputs, state, config=config, backend=backend, **options))(
            seq_lengths=lengths
        )
        for backend in ("cudnn", "scan")
    )
    assert worst_error(actual, expected) < 1e-6


@pytest.mark.usefixtures("reference_for_cudnn")
def test_lengths_that_cudnn_does_not_support() -> None:
    """A length of zero leaves the state unchanged, and a length above T counts as T."""
    assert_matches_the_scan(LSTMConfig(3, 5, bidirectional=True), jnp.array([0, 7, 3]))


@pytest.mark.usefixtures("reference_for_cudnn")
def test_dropout_uses_the_masks_of_other_backends() -> None:
    assert_matches_the_scan(LSTMConfig(3, 5, num_layers=2, dropout=0.5), dropout_key=jax.random.key(1))


def test_unsupported_calls() -> None:
    run = lambda config, dtype: lstm(*drawn(config, dtype), config=config, backend="cudnn")  # noqa: E731
    with pytest.raises(RuntimeError, match=r"backend='cudnn' does not support a projection, got proj_size=2"):
        run(LSTMConfig(3, 5, proj_size=2), jnp.float32)
    with pytest.raises(RuntimeError, match=r"backend='cudnn' supports float32, got bfloat16"):
        run(CONFIG, jnp.bfloat16)


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="a GPU is attached")
def test_error_without_a_gpu() -> None:
    params, inputs, state = drawn()
    with pytest.raises(RuntimeError, match=r"backend='cudnn' needs an NVIDIA GPU .* use backend='auto'"):
        lstm(params, inputs, state, config=CONFIG, backend="cudnn")


def test_error_on_another_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rnn, "lstm", reference)
    monkeypatch.setattr(cudnn, "require_device", lambda: None)
    params, inputs, state = drawn()
    run = jax.jit(lambda *a: lstm(*a, config=CONFIG, backend="cudnn"))
    with pytest.raises(NotImplementedError, match=r"backend='cudnn' has kernels for cuda"):
        run.trace(params, inputs, state).lower(lowering_platforms=("cpu",))
