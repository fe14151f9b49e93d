"""verify: right ports hold, and the report lists untested items."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.check import verify
from jaxlstm.check.cases import inputs as cases
from jaxlstm.check.criteria.catalogue import CRITERIA
from jaxlstm.layer.config import LSTMCellConfig, LSTMConfig
from testing.right_ports import SigmoidThroughTanh
from testing.verification import SMALL, SMALL_PARAMS, STRONG, check, needs_torch, own, random_params, status
from testing.wrong_ports import WrongPort


@needs_torch
def test_our_layer_holds():
    steps = []
    report = verify(None, None, STRONG, progress=lambda *step: steps.append(step))
    assert report.ok, str(report)
    criteria = {criterion.id for criterion in CRITERIA} - {"tolerance"}
    assert {item.id.removesuffix("-torch").removesuffix("-oracle") for item in report.items} == criteria
    assert set(status(report).values()) == {"ok"}
    assert report.environment["torch.backends.cudnn.rnn.fp32_precision"] == "ieee"
    assert report.settings == {
        "port": "jaxlstm.lstm",
        "config": repr(STRONG),
        "dtype": "float32",
        "seed": 0,
        "gradients": True,
        "against": "torch, oracle",
        "rtol": None,
        "atol": None,
        "precision": "highest",
    }
    assert [done for done, _, _ in steps] == list(range(steps[-1][1] + 1))
    names = [case.name for case in cases.standard_cases(STRONG)]
    assert [what for _, _, what in steps] == [*names, "step residual", "done"]
    assert json.loads(report.to_json())["ok"]


@pytest.mark.parametrize(
    ("config", "dtype", "scale", "gradients"),
    [
        (SMALL, "float16", 1.0, False),
        (SMALL, "bfloat16", 1.0, False),
        (LSTMCellConfig(2, 3), "float64", 1.0, False),
        (LSTMConfig(2, 3, bias=False, batch_first=True), "float64", 1.0, False),
        (SMALL, "float32", 10.0, True),
        (SMALL, "float32", 60.0, False),
    ],
)
def test_our_layer_in_other_dtypes_and_with_large_weights(config, dtype, scale, gradients):
    params = random_params(config, scale=scale)
    report = verify(None, params, config, dtype=dtype, gradients=gradients)
    assert report.ok, str(report)
    assert (report.settings["config"], report.settings["dtype"]) == (repr(config), dtype)
    assert ("RMS error of results" in status(report)) == (dtype != "float64")


@pytest.mark.quick("nan")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nonfinite_weights_are_not_accused(value):
    """A checkpoint may contain NaN; the port must have NaN exactly where torch has it."""
    params = {name: a.copy() for name, a in SMALL_PARAMS.items()}
    params["bias_hh_l0"][3] = params["weight_hh_l1"][5, 1] = value
    report = verify(WrongPort(SMALL), params, SMALL, gradients=False, seconds=0)
    assert report.ok, str(report)
    assert [note for note in report.notes if "infinity: bias_hh_l0, weight_hh_l1;" in note]
    assert status(report)["step residual"] == "ok"
    wrong = verify(
        WrongPort(SMALL, "no bias_hh"), params, SMALL, gradients=False, seconds=0, against="oracle"
    )
    assert status(wrong)["step residual"] == "FAILED"
    assert not check(WrongPort(SMALL), against="oracle").notes


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_small_forget_gates_accuse_no_right_port(dtype):
    """Sigmoid through tanh has an absolute error, which the forget gate multiplies by a large c."""
    params = {name: array.copy() for name, array in SMALL_PARAMS.items()}
    for layer in range(SMALL.num_layers):
        params[f"bias_ih_l{layer}"][4:8] = -14
    port = SigmoidThroughTanh(SMALL)
    report = verify(port, params, SMALL, dtype=dtype, gradients=False, against="oracle")
    assert report.ok, str(report)


@pytest.mark.quick("float16-50.0", "float32-1000.0", "float64-50.0")
@pytest.mark.parametrize("bound", [50.0, 1000.0])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_clipped_cell_state_is_found(bound, dtype):
    """In the working dtype too, if the port does not run in float64."""

    def port(x, state, lengths, *, params):
        if x.dtype == np.float64 and dtype != "float64":
            raise TypeError("no float64")
        y, (h, c) = WrongPort(SMALL)(x, state, lengths, params=params)
        return y, (h, c.clip(-bound, bound))

    report = verify(port, SMALL_PARAMS, SMALL, dtype=dtype, gradients=False, against="oracle", seconds=0)
    assert not report.ok
    assert status(report)["runs"] == "ok"


def always_single(x, state, lengths, *, params):
    single = jax.tree.map(lambda a: a.astype(jnp.float32), (params, x, state))
    return own(single[1], single[2], lengths, params=single[0])


def test_float32_port_is_judged_in_float32():
    report = check(jax.jit(always_single))
    assert report.ok, str(report)
    assert status(report)["float64 semantics"] == "untested"
    assert "returned float32 for float64 inputs" in str(report)
    asked = verify(jax.jit(always_single), SMALL_PARAMS, SMALL, dtype="float64", gradients=False)
    assert status(asked)["shape and dtype"] == "FAILED"
    assert "expected float64" in str(asked)


def test_unsupported_arguments_go_untested():
    def port(x):
        return own(x, None, None, params=SMALL_PARAMS)

    report = verify(jax.jit(port), SMALL_PARAMS, SMALL)
    assert report.ok, str(report)
    (state,) = (item for item in report.items if item.name == "initial state")
    assert "large cell states are untested too" in state.detail
    untested = {item.name for item in report.items if item.ok is None}
    assert untested == {
        "ragged lengths",
        "initial state",
        "step residual",
        "gradients of parameters",
        # The port's float32 weights do not mix with float64 inputs; lstm raises.
        "float64 semantics",
    }


def test_numpy_port_has_no_gradients():
    report = verify(WrongPort(SMALL), SMALL_PARAMS, SMALL)
    assert report.ok, str(report)
    assert status(report)["gradients"] == "untested"


EDGES = {
    "time": lambda x, state, n: (x.at[150:].multiply(1.01), state, n),
    "batch": lambda x, state, n: (x.at[:, 40:].multiply(1.01), state, n),
    "gradient, long": lambda x, state, n: (
        jnp.concatenate([jax.lax.stop_gradient(x[:-100]), x[-100:]]) if len(x) > 100 else x,
        state,
        n,
    ),
    "gradient, batch 1": lambda x, state, n: (jax.lax.stop_gradient(x) if x.shape[1] == 1 else x, state, n),
    "no state": lambda x, state, n: (x, state or [jnp.ones((2, x.shape[1], 4), x.dtype)] * 2, n),
    "length 0": lambda x, state, n: (x, state, None if n is None else jnp.maximum(n, 1)),
}


@pytest.mark.quick("time", "gradient, long", "no state", "length 0")
@pytest.mark.parametrize("edge", EDGES)
def test_faults_at_the_edges(edge):
    """Each port is wrong only beyond a size, without a state, or for a sequence of length 0."""

    @jax.jit
    def port(x, state, lengths, *, params):
        return own(*EDGES[edge](x, state, lengths), params=params)

    report = verify(port, SMALL_PARAMS, SMALL, seconds=0, gradients=edge.startswith("gradient"))
    assert {item.kind for item in report.failures} >= {"gradient" if "gradient" in edge else "semantic"}


@needs_torch
def test_torchs_own_error_is_reported():
    report = check(WrongPort(SMALL), against=("oracle", "torch"))
    assert report.settings["against"] == "torch, oracle"
    items = {item.name: item for item in report.items}
    item = items["RMS error of results"]
    arrays = item.data["arrays"]
    torch = {where: found["torch"] for where, found in arrays.items() if found["in_mean"]}
    # torch cannot pack a sequence without a step.
    assert {where.partition(",")[0] for where, error in torch.items() if error is None} == {"length 0"}
    assert all(0 < error < 1e-5 for error in torch.values() if error is not None)
    assert "times the error of torch" in item.detail
    items = {item.name: item for item in check(WrongPort(SMALL), against="oracle").items}
    assert "torch" not in items["RMS error of results"].detail
