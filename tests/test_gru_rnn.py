"""``nnx.GRU`` and ``nnx.RNN`` against torch, filled by ``load_state_dict``."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import jaxlstm
from jaxlstm.check import verify_model

STACK: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "batch_first": True}
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("GRU", {"batch_first": True}),
    ("GRU", STACK),
    ("RNN", {"bias": False, **STACK}),
    ("RNN", {"nonlinearity": "relu", **STACK}),
]


def pair(kind: str, **kwargs: Any) -> tuple[Any, Any]:
    """Return a torch layer, and the NNX layer with its weights."""
    torch.manual_seed(0)
    theirs = getattr(torch.nn, kind)(3, 4, **kwargs).eval()
    ours = getattr(jaxlstm.nnx, kind)(3, 4, **kwargs, rngs=nnx.Rngs(0))
    assert jaxlstm.load_state_dict(ours, theirs).complete
    return theirs, ours


@nnx.jit
def run(layer: Any, *args: Any, **kwargs: Any) -> Any:
    return layer(*args, **kwargs)


def close(actual: Any, expected: Any) -> None:
    for ours, theirs in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-6)


@pytest.mark.quick("GRU-kwargs0", "RNN-kwargs2")
@pytest.mark.parametrize(("kind", "kwargs"), KINDS)
def test_values_gradients_and_weights(kind: str, kwargs: dict[str, Any]) -> None:
    theirs, ours = pair(kind, **kwargs)
    x, lengths = torch.randn(3, 6, 3), torch.tensor([4, 6, 1])
    state = torch.randn_like(theirs(x)[1])
    close(ours(x.numpy()), theirs(x))
    close(run(ours, x[0].numpy()), theirs(x[0]))
    close(run(ours, x.numpy(), state.numpy()), theirs(x, state))

    y, last = theirs(pack_padded_sequence(x, lengths, True, False), state)
    expected = pad_packed_sequence(y, True)[0], last
    close(run(ours, x.numpy(), state.numpy(), seq_lengths=lengths.numpy()), expected)
    packed = jaxlstm.pack_padded_sequence(x.numpy(), lengths.numpy(), True, False)
    y, last = run(ours, packed, state.numpy())
    close((jaxlstm.pad_packed_sequence(y, True)[0], last), expected)

    (expected[0] ** 2).sum().backward()
    arrays = x.numpy(), state.numpy(), lengths.numpy()
    loss = lambda m, x, h, lengths: (m(x, h, seq_lengths=lengths)[0] ** 2).sum()  # noqa: E731
    gradient = nnx.jit(nnx.grad(loss))(ours, *arrays)
    for name, parameter in theirs.named_parameters():
        np.testing.assert_allclose(gradient[name][...], parameter.grad, atol=1e-5)
    for name, array in jaxlstm.state_dict(ours).items():
        np.testing.assert_array_equal(array, theirs.state_dict()[name])


def test_the_gradient_of_inactive_units_is_zero() -> None:
    """Also where the gradient of an output is infinite, as in a float16 loss that overflows."""
    ours: Any = jaxlstm.nnx.RNN(3, 4, nonlinearity="relu", bias=False, rngs=nnx.Rngs(0))
    ours.load_params({name: -abs(array) for name, array in ours.params.items()})
    y, pull = jax.vjp(lambda x: ours(x)[0], np.full((2, 1, 3), 1e-3, np.float32))
    assert not y.any()
    assert not np.any(pull(jnp.full_like(y, jnp.inf))[0])


@pytest.mark.parametrize("bias", [True, False])
def test_cell(bias: bool) -> None:
    """Values with and without a state and a batch, gradients, weights, and a wrong port."""
    theirs, ours = pair("GRUCell", bias=bias)
    x, state = torch.randn(5, 3), torch.randn(5, 4)
    close(run(ours, x.numpy()), theirs(x))
    close(run(ours, x[0].numpy(), state[0].numpy()), theirs(x[0], state[0]))
    verify_model(ours, theirs, (x.numpy(), state.numpy())).raise_if_failed()
    for name, array in jaxlstm.state_dict(ours).items():
        np.testing.assert_array_equal(array, theirs.state_dict()[name])
    with pytest.raises(ValueError, match=r"h must have shape \(5, 4\)"):
        ours(x.numpy(), state[:1].numpy())
    ours.load_params({**ours.params, "weight_hh": ours.params["weight_hh"][::-1]})
    assert not verify_model(ours, theirs, (x.numpy(), state.numpy())).ok


def test_dropout() -> None:
    """Certain dropout has torch's results, other dropout needs a stream and changes them."""
    theirs, ours = pair("GRU", num_layers=2, dropout=1.0)
    x = torch.randn(5, 2, 3)
    with pytest.raises(ValueError, match=r"dropout=1\.0, got None; call model\.eval\(\)"):
        ours(x.numpy())
    close(ours(x.numpy(), deterministic=True), theirs(x))
    ours.train()
    close(ours(x.numpy()), theirs.train()(x))
    _, half = pair("GRU", num_layers=2, dropout=0.5)
    half.train()
    assert np.abs(half(x.numpy())[0] - half(x.numpy())[0]).max() > 1e-3


def test_dtypes() -> None:
    theirs, ours = pair("GRU", **STACK)
    half = jaxlstm.nnx.GRU(3, 4, **STACK, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)).load_params(ours.params)
    x = torch.randn(2, 5, 3)
    outputs, last = half(x.numpy())
    assert outputs.dtype == last.dtype == jnp.bfloat16
    np.testing.assert_allclose(outputs.astype(np.float32), theirs(x)[0].detach(), atol=0.02)


def test_refused() -> None:
    gru: Any = jaxlstm.nnx.GRU(3, 4, rngs=nnx.Rngs(0))
    x = np.ones((5, 2, 3), np.float32)
    calls: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (
            lambda: jaxlstm.nnx.RNN(3, 4, nonlinearity="gelu", rngs=nnx.Rngs(0)),
            ValueError,
            "'tanh' or 'relu'",
        ),
        (lambda: gru(x, np.ones((2, 4), np.float32)), ValueError, r"h_0 must have shape \(1, 2, 4\)"),
        (lambda: gru(x, (x, x)), TypeError, "is the array h_0, without c_0; got a tuple"),
        (lambda: jaxlstm.nnx.GRUCell(3, 4, rngs=nnx.Rngs(0))(x[0], (x, x)), TypeError, "array h, without c;"),
        (lambda: gru(x, hx=x), TypeError, "^GRU.__call__ got torch's keyword hx; pass it as initial_state"),
        (
            lambda: jaxlstm.from_torch(torch.nn.GRU(3, 4)),
            ValueError,
            r"jaxlstm\.load_state_dict\(jaxlstm\.nnx\.GRU",
        ),
        (lambda: jaxlstm.lstm(gru.params, x, config=gru.config), TypeError, "must be an LSTMConfig"),
        (lambda: gru.load_params({}), ValueError, r"missing weight_ih_l0 \(12, 3\)"),
    ]
    for call, error, message in calls:
        with pytest.raises(error, match=message):
            call()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "kwargs"), [KINDS[1], KINDS[3]])
def test_verify_model(kind: str, kwargs: dict[str, Any]) -> None:
    """The checker accepts a right layer, and rejects one with swapped gates or another activation."""
    theirs, ours = pair(kind, **kwargs)
    x = np.random.default_rng(0).standard_normal((3, 6, 3)).astype(np.float32)
    report = verify_model(ours, theirs, (x,))
    assert report.ok, str(report)
    gates = np.split(ours.params["weight_hh_l1"], 3 if kind == "GRU" else 1)
    ours.load_params({**ours.params, "weight_hh_l1": -np.concatenate(gates[::-1])})
    assert not verify_model(ours, theirs, (x,)).ok
