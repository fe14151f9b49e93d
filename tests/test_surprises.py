"""Habits from torch: each works, or the error names what to do instead."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jaxlstm
from jaxlstm import LSTMCellConfig, LSTMConfig, init_params

# The tests pass arguments that a type checker refuses.
lstm: Any = jaxlstm.lstm
lstm_cell: Any = jaxlstm.lstm_cell
nnx_modules: Any = jaxlstm.nnx
linen_modules: Any = jaxlstm.linen
load: Any = jaxlstm.load

CONFIG = LSTMConfig(3, 5, num_layers=2, dropout=0.5)
PARAMS = init_params(jax.random.key(0), CONFIG)
CELL_CONFIG = LSTMCellConfig(3, 5)
CELL = init_params(jax.random.key(0), CELL_CONFIG)
X = jnp.ones((7, 4, 3))
TORCH_PACKED = torch.nn.utils.rnn.pack_padded_sequence(torch.ones(7, 4, 3), [7, 4, 2, 1])
WHOLE = {f"rnn.{name}": p for name, p in PARAMS.items()} | {"head.weight": jnp.ones((2, 5))}


def nnx_lstm(**options: Any) -> Any:
    return jaxlstm.nnx.LSTM.from_params(PARAMS, CONFIG, **options)


FIXES: dict[type[Exception], list[tuple[Any, ...]]] = {
    TypeError: [
        (lambda: lstm(X, PARAMS, config=CONFIG), r"swapped.*lstm\(params, inputs, config=config\)"),
        (lambda: lstm_cell(X[0], CELL), r"swapped.*lstm_cell\(params, x\)"),
        (lambda: lstm(PARAMS, X, hx=None, config=CONFIG), "lstm got .*hx; pass it as initial_state"),
        (lambda: lstm(PARAMS, input=X, config=CONFIG), "torch's keyword input; pass it as inputs"),
        (lambda: nnx_lstm()(X, hx=None), "LSTM.__call__ got .*hx; pass it as initial_state"),
        (lambda: nnx_modules.LSTM(3, 5, rngs=0), r"rngs must be an nnx.Rngs, got 0; .*Rngs\(0\)"),
        (lambda: nnx_lstm(deterministic=False)(X, rngs=2), r"got 2; pass rngs=nnx.Rngs\(2\)"),
        (lambda: nnx_modules.LSTM.from_params(CONFIG, PARAMS), "config must be an .*, got dict"),
        (lambda: linen_modules.LSTM.from_params(CONFIG, PARAMS), "config must be an .*, got dict"),
        (lambda: init_params(0, CONFIG), r"key must be a .*key, got 0; pass jax.random.key\(0\)"),  # type: ignore[arg-type]
        (lambda: lstm(PARAMS, X, config=CONFIG, dropout_key=3), "dropout_key must be .*got 3; pa"),
        (lambda: jaxlstm.save(PARAMS, CONFIG, "x"), r"got dict; call jaxlstm\.save\(path, params"),  # type: ignore[arg-type]
        (lambda: lstm(PARAMS, TORCH_PACKED, config=CONFIG), "with jaxlstm.PackedSequence.from_tor"),
        (lambda: load(WHOLE), r"path must be .*got dict; jaxlstm\.from_torch takes a sta"),
    ],
    AttributeError: [
        (lambda: jaxlstm.LSTM, r"use jaxlstm\.nnx\.LSTM or jaxlstm\.linen\.LSTM$"),
        (lambda: jaxlstm.GRU, r"no attribute 'GRU'; use jaxlstm\.nnx\.GRU$"),
        (lambda: nnx_lstm().load_state_dict(WHOLE), r"call jaxlstm.load_state_dict\(model,"),
        (
            lambda: linen_modules.LSTM(3, 5).load_state_dict(WHOLE),
            r"immutable; call jaxlstm.linen.load_state_dict\(module, variables",
        ),
    ],
    ValueError: [
        (lambda: nnx_lstm()(X), r"dropout=0.5, got None; call model.eval\(\) for inference or mod"),
        (lambda: linen_modules.LSTM.from_params(PARAMS, CONFIG)(X), "pass it to the call, the con"),
    ],
}


@pytest.mark.parametrize(
    ("error", "call", "message"), [(error, *row) for error, rows in FIXES.items() for row in rows]
)
def test_the_error_names_the_fix(call: Callable[[], Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda params: lstm(params, X, config=CONFIG),
        lambda params: nnx_lstm().load_params(params),
        lambda params: jaxlstm.nnx.LSTM.from_params(params, CONFIG),
        lambda params: jaxlstm.linen.LSTM.from_params(params, CONFIG),
        lambda params: jaxlstm.save("unused.safetensors", params, CONFIG),
    ],
)
def test_a_whole_state_dict(call: Callable[[Any], Any]) -> None:
    """The message gives the prefix, not a list of every tensor."""
    with pytest.raises(ValueError, match=r"they are under 'rnn\.'; select them by") as caught:
        call(WHOLE)
    assert "jaxlstm.from_torch(params, prefix='rnn.')" in str(caught.value)
    assert "missing" not in str(caught.value)
    two = WHOLE | {f"encoder.{name}": p for name, p in PARAMS.items()}
    with pytest.raises(ValueError, match=r"under 'rnn\.' or 'encoder\.'"):
        call(two)


def test_parameters_of_the_other_layer() -> None:
    for cell in (jaxlstm.nnx.LSTMCell, jaxlstm.linen.LSTMCell):
        with pytest.raises(
            ValueError, match="parameters of an LSTM: run them with LSTM, or remove the suffix"
        ):
            cell.from_params(init_params(jax.random.key(0), LSTMConfig(3, 5)), LSTMConfig(3, 5))
    with pytest.raises(ValueError, match="parameters of an LSTMCell: pass an LSTMCellConfig"):
        lstm(CELL, X, config=LSTMConfig(3, 5))


def test_to_torch_takes_a_module() -> None:
    expected = jaxlstm.to_torch(PARAMS, CONFIG, prefix="rnn.")
    cell = jaxlstm.to_torch(CELL, CELL_CONFIG)
    bound = jaxlstm.linen.LSTM.from_params(PARAMS, CONFIG)
    for module, prefix, state_dict in (
        (nnx_lstm(), "rnn.", expected),
        (bound, "rnn.", expected),
        (jaxlstm.nnx.LSTMCell.from_params(CELL, CELL_CONFIG), "", cell),
        (jaxlstm.linen.LSTMCell.from_params(CELL, CELL_CONFIG), "", cell),
    ):
        found = jaxlstm.to_torch(module, prefix=prefix)
        assert list(found) == list(state_dict)
        assert all(np.array_equal(found[name], state_dict[name]) for name in found)
    with pytest.raises(ValueError, match=r"not bound; .*module\.bind\(variables\)\.params"):
        jaxlstm.to_torch(bound.unbind()[0])
    with pytest.raises(TypeError, match=r"config must be the LSTMConfig.*got None; pass it as the second"):
        jaxlstm.to_torch(PARAMS)
    with pytest.raises(TypeError, match=r"got Linear; jaxlstm\.state_dict\(model\) converts a whole"):
        jaxlstm.to_torch(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))


class Tagger(nnx.Module):
    """A model that uses the names h and c of the state, and returns the state."""

    def __init__(self) -> None:
        self.lstm = nnx_lstm(deterministic=True)

    def __call__(self, x: jax.Array) -> Any:
        outputs, state = self.lstm(x)
        return outputs + state.h[-1], state


def test_tabulate() -> None:
    for model in (nnx_lstm(deterministic=True), Tagger()):
        table = nnx.tabulate(model, X, console_kwargs={"force_terminal": False})
        assert "weight_hh_l1" in table
        assert "float32[7,4,5]" in table
        assert "float32[2,4,5]" in table
    assert type(model(X)[1]) is jaxlstm.LSTMState


def test_a_torch_tensor_at_inference() -> None:
    """Runners and programs take arrays; the message says how to convert."""
    config = LSTMConfig(3, 4)
    runner = jaxlstm.inference.compile(
        init_params(jax.random.key(0), config), config, max_length=8, max_batch=1
    )
    program = jaxlstm.from_module(torch.nn.Linear(3, 2), (torch.ones(2, 3),))
    x = torch.ones(2, 3)
    for call in (lambda: runner(x), lambda: program(program.params, x)):
        with pytest.raises((TypeError, jaxlstm.ProgramError), match=r"got a torch tensor; .*\.detach\(\)"):
            call()
    with pytest.raises(jaxlstm.ProgramError, match=r"got a JAX array; call program\(program\.params, \.\.\."):
        program(jnp.ones((2, 3)))  # type: ignore[arg-type]
    with pytest.raises(jaxlstm.ProgramError, match="takes 1 positional argument after params, got 0"):
        program(program.params)


def test_a_dropout_without_effect_is_reported_once(tmp_path: Path) -> None:
    """The warning names the user's line, however often the library builds the config."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        config = LSTMConfig(3, 4, dropout=0.5)
        jaxlstm.save(tmp_path / "x.safetensors", init_params(jax.random.key(0), config), config)
        jaxlstm.load(tmp_path / "x.safetensors")
    assert {warning.filename for warning in caught} == {__file__}
    assert len({warning.lineno for warning in caught}) == len(caught) <= 3
