"""verify: our layer holds, planted faults do not, and the report lists untested items."""

from __future__ import annotations

import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from jaxlstm.check import verify
from jaxlstm.check.reference import cases, torch_runner
from jaxlstm.config import LSTMCellConfig, LSTMConfig
from jaxlstm.params import init_bound, param_shapes
from tests.support.verification import STRONG, needs_torch, random_params
from tests.support.wrong_ports import WrongPort

CONFIG = LSTMConfig(3, 4, num_layers=2)
PARAMS = random_params(CONFIG)


def own(x, state, lengths, *, params):
    return jaxlstm.lstm(params, x, state, seq_lengths=lengths, config=CONFIG)


def check(port, **options):
    return verify(port, PARAMS, CONFIG, gradients=False, **options)


def status(report):
    return {item.name: item.status for item in report.items}


EVERYTHING = (
    *("runs", "shape and dtype", "NaN mask", "repeatable", "step residual"),
    *("float64 semantics against torch", "float64 semantics against oracle"),
    *("float64 gradients against torch", "float64 gradients against oracle"),
    *("RMS error of results", "RMS error of results, worst array"),
    *("RMS error of gradients", "RMS error of gradients, worst array"),
)


@needs_torch
def test_our_layer_holds():
    steps = []
    report = verify(None, None, STRONG, progress=lambda *step: steps.append(step))
    assert report.ok, str(report)
    assert status(report) == dict.fromkeys(EVERYTHING, "ok")
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
    assert report.again == (
        f"jaxlstm.check.verify(None, params, {STRONG}, dtype='float32', seed=0, gradients=True, "
        "against=('torch', 'oracle'))"
    )
    assert [len(picture.rows[0]) for picture in report.heatmaps] == [12, 100]
    assert {p.floor for p in report.heatmaps} == {float(np.finfo(np.float32).eps) / 10}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_our_layer_holds_in_half_precision(dtype):
    report = verify(None, None, CONFIG, dtype=dtype, gradients=False)
    assert report.ok, str(report)


@pytest.mark.parametrize("config", [LSTMCellConfig(2, 3), LSTMConfig(2, 3, bias=False, batch_first=True)])
def test_our_layer_in_float64(config):
    report = verify(None, None, config, dtype="float64", gradients=False)
    assert report.ok, str(report)
    assert "RMS error of results" not in status(report)


@pytest.mark.parametrize(("scale", "gradients"), [(10.0, True), (60.0, False)])
def test_large_weights_are_not_accused(scale, gradients):
    params = random_params(CONFIG, scale=scale)
    report = verify(None, params, CONFIG, gradients=gradients)
    assert report.ok, str(report)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nonfinite_weights_are_not_accused(value):
    """A checkpoint may contain NaN; the port must have NaN exactly where torch has it."""
    params = {name: a.copy() for name, a in PARAMS.items()}
    params["bias_hh_l0"][3] = params["weight_hh_l1"][5, 1] = value
    report = verify(WrongPort(CONFIG), params, CONFIG, gradients=False, seconds=0)
    assert report.ok, str(report)
    assert [note for note in report.notes if "infinity: bias_hh_l0, weight_hh_l1;" in note]
    assert status(report)["step residual"] == "ok"
    wrong = verify(
        WrongPort(CONFIG, "no bias_hh"), params, CONFIG, gradients=False, seconds=0, against="oracle"
    )
    assert status(wrong)["step residual"] == "FAILED"
    finite = check(WrongPort(CONFIG), against="oracle")
    assert not finite.notes


def layer_gradient_missing(x, state, lengths, *, params):
    frozen = {k: jax.lax.stop_gradient(v) if "_l1" in k else v for k, v in params.items()}
    return own(x, state, lengths, params=frozen)


def state_gradient_missing(x, state, lengths, *, params):
    return own(x, jax.lax.stop_gradient(state), lengths, params=params)


@needs_torch
@pytest.mark.parametrize(
    ("port", "cause"),
    [
        (layer_gradient_missing, "weight_ih_l1, weight_hh_l1, bias_ih_l1, bias_hh_l1 is zero"),
        (state_gradient_missing, "the gradient of h_0, c_0 is zero"),
    ],
)
def test_faults_of_the_derivative_are_caught_and_named(port, cause):
    report = verify(jax.jit(port), PARAMS, CONFIG)
    found = status(report)
    assert found["float64 gradients against torch"] == "FAILED"
    assert found["float64 gradients against oracle"] == "FAILED"
    assert found["float64 semantics against oracle"] == "ok"
    assert found["step residual"] == "ok"
    assert cause in "; ".join(report.diagnosis)


def always_single(x, state, lengths, *, params):
    single = jax.tree.map(lambda a: a.astype(jnp.float32), (params, x, state))
    return own(single[1], single[2], lengths, params=single[0])


def test_float32_port_is_judged_in_float32():
    report = check(jax.jit(always_single))
    assert report.ok, str(report)
    assert status(report)["float64 semantics"] == "untested"
    assert "returned float32 for float64 inputs" in str(report)
    asked = verify(jax.jit(always_single), PARAMS, CONFIG, dtype="float64", gradients=False)
    assert status(asked)["shape and dtype"] == "FAILED"
    assert "expected float64" in str(asked)


def test_unsupported_arguments_go_untested():
    def port(x):
        return own(x, None, None, params=PARAMS)

    report = verify(jax.jit(port), PARAMS, CONFIG)
    assert report.ok, str(report)
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
    report = verify(WrongPort(CONFIG), PARAMS, CONFIG)
    assert report.ok, str(report)
    assert status(report)["gradients"] == "untested"


@needs_torch
def test_port_that_raises():
    def port(x, state, lengths, *, params):
        if len(x) == 1:
            raise ValueError("one step is too few\nfor me")
        return WrongPort(CONFIG)(x, state, lengths, params=params)

    report = check(port)
    item = {item.name: item for item in report.items}["runs"]
    assert item.ok is False
    line = port.__code__.co_firstlineno + 2
    assert item.detail == (
        f"one step: ValueError: one step is too few (test_verify.py:{line}); "
        "fails in one step, one step from zeros"
    )
    assert status(report)["float64 semantics against torch"] == "ok"
    assert status(report)["step residual"] == "FAILED"


class Recording:
    def __init__(self):
        self.seen: list[Any] = []

    def __call__(self, x, state, lengths, *, params):
        self.seen.append(params)
        raise ValueError("seen")


def test_default_params_follow_from_the_seed():
    """They are drawn as the parameters of a new LSTM."""

    def drawn(seed, **options):
        port = Recording()
        report = verify(port, None, CONFIG, seed=seed, gradients=False, against="oracle", **options)
        assert report.title == "Recording in float32"
        return {name: np.asarray(a) for name, a in port.seen[0].items()}

    found, again, other = drawn(5), drawn(5), drawn(6)
    assert {name: a.shape for name, a in found.items()} == param_shapes(CONFIG)
    assert {a.dtype for a in found.values()} == {np.dtype(np.float32)}
    numbers = np.concatenate([a.ravel() for a in found.values()])
    assert np.abs(numbers).max() <= init_bound(CONFIG)
    assert np.ptp(numbers) > 1.9 * init_bound(CONFIG)
    assert all(np.array_equal(a, again[name]) for name, a in found.items())
    assert not np.array_equal(found["bias_ih_l0"], other["bias_ih_l0"])


def test_params_may_be_in_any_order():
    port = Recording()
    params = dict(reversed(PARAMS.items()))
    verify(port, params, CONFIG, gradients=False, against="oracle", precision="tensorfloat32")
    assert {name: a.tolist() for name, a in port.seen[0].items()} == {
        name: a.tolist() for name, a in PARAMS.items()
    }


def test_batch_first_port_runs_in_the_checked_precision():
    config: Any = jax.config
    seen = set()

    def port(x, state, lengths, *, params):
        seen.add(config.jax_default_matmul_precision)
        return WrongPort(CONFIG, "batch first")(x, state, lengths, params=params)

    report = check(port, precision="bfloat16", against="oracle")
    assert "the port is batch-first" in "; ".join(report.diagnosis)
    assert seen == {"bfloat16"}


def test_port_that_always_raises():
    def port(x, state, lengths, *, params):
        raise ValueError("not today")

    report = check(port)
    assert status(report) == {"runs": "FAILED", "step residual": "FAILED"}
    assert report.diagnosis == ()


def in_a_library():
    np.linalg.inv(np.zeros((2, 2)))


def in_jaxlstm():
    jaxlstm.lstm(PARAMS, np.zeros((0, 1, 3), np.float32), config=CONFIG)


def indirectly():
    in_a_library()


def raising(error):
    def fail():
        raise error

    return fail


@pytest.mark.parametrize(
    ("fail", "last", "message"),
    [
        (raising(KeyError("kernel")), None, "KeyError: 'kernel'"),
        (raising(AssertionError()), None, "AssertionError"),
        (raising(NotImplementedError("no lengths\nat all")), None, "NotImplementedError: no lengths"),
        (in_a_library, None, "LinAlgError: Singular matrix"),
        (in_jaxlstm, None, "ValueError: "),
        (indirectly, in_a_library, "LinAlgError: Singular matrix"),
    ],
)
def test_exception_in_one_case(fail, last, message):
    """The report has the error's type and first line, and the last line of the port's own code."""

    def port(x, state, lengths, *, params):
        if x.shape[1] == 1:
            fail()
        return WrongPort(CONFIG)(x, state, lengths, params=params)

    report = check(port, against="oracle", seconds=0)
    assert [item.name for item in report.failures] == ["runs"]
    line = (last or fail).__code__.co_firstlineno + 1
    detail = report.failures[0].detail
    assert detail.startswith(f"batch 1: {message}")
    assert detail.endswith(f" (test_verify.py:{line}); fails in batch 1")


def test_malformed_results_have_no_explanation():
    def port(x, state, lengths, *, params):
        return np.ones((), x.dtype), (None, None)

    report = check(port, against="oracle", seconds=0)
    assert not report.ok
    assert [line for line in report.diagnosis if line.startswith("matches")] == []


class SingleSigmoid(WrongPort):
    def sigmoid(self, z):
        return super().sigmoid(z.astype(np.float32)).astype(z.dtype)


def test_float32_function_within_float64_is_named():
    report = check(SingleSigmoid(CONFIG), against="oracle")
    assert [item.name for item in report.failures] == ["float64 semantics against oracle"]
    assert "a part of the computation is in float32" in report.diagnosis[0]
    assert re.search("in [ifo], unit", report.diagnosis[1])


def changed(change):
    """Return a right port whose results are changed."""

    def port(x, state, lengths, *, params):
        outputs, (h_n, c_n) = WrongPort(CONFIG)(x, state, lengths, params=params)
        return change(outputs, h_n, c_n)

    return port


@pytest.mark.parametrize(
    "change",
    [lambda y, h, c: (y, (h, None)), lambda y, h, c: (y, (None, c)), lambda y, h, c: (y, (None, None))],
    ids=["h_n", "c_n", "neither"],
)
def test_port_without_final_state(change):
    report = check(changed(change))
    assert report.ok, str(report)
    assert status(report)["step residual"] == "untested"


@pytest.mark.parametrize(
    ("change", "message", "cause"),
    [
        (
            lambda y, h, c: (y.swapaxes(0, 1), (h, c)),
            "outputs has shape (5, 12, 4), expected (12, 5, 4)",
            "the first two axes of outputs are swapped",
        ),
        (
            lambda y, h, c: (y, (h.astype(np.float32), c)),
            "in float64, h_n has dtype float32, expected float64",
            "",
        ),
    ],
    ids=["shape", "dtype"],
)
def test_shape_and_dtype_are_reported(change, message, cause):
    report = check(changed(change))
    assert status(report)["shape and dtype"] == "FAILED"
    assert message in str(report)
    assert cause in "; ".join(report.diagnosis)


def test_oracle_judges_without_torch(monkeypatch):
    monkeypatch.setattr(torch_runner, "is_available", lambda: False)
    monkeypatch.setattr(torch_runner, "run", None)
    report = check(WrongPort(CONFIG))
    assert report.ok, str(report)
    assert "torch is not installed" in " ".join(report.notes)
    assert "torch" not in report.environment
    assert "float64 semantics against torch" not in status(report)
    with pytest.raises(ValueError, match="only torch, which is not installed"):
        verify(own, PARAMS, CONFIG, against="torch")


@needs_torch
def test_torch_only():
    report = check(WrongPort(CONFIG), against="torch")
    assert report.ok, str(report)
    assert "float64 semantics against oracle" not in status(report)
    wrong = check(WrongPort(CONFIG, "no c_0"), against="torch")
    assert status(wrong)["float64 semantics against torch"] == "FAILED"


def test_tolerances_replace_the_criteria():
    port = WrongPort(CONFIG, "bfloat16 weights")
    loose = check(port, rtol=1e-1, atol=1e-1)
    assert loose.ok, str(loose)
    assert "tolerances set by the caller" in " ".join(loose.notes)
    assert "step residual" not in status(loose)
    tight = check(port, rtol=0.0, atol=1e-7)
    assert status(tight)["within the tolerance"] == "FAILED"
    assert "the weights are rounded to bfloat16" in "; ".join(tight.diagnosis)
    with pytest.raises(ValueError, match="without atol"):
        verify(port, PARAMS, CONFIG, rtol=1.0)


def test_rejects_invalid_arguments():
    with pytest.raises(TypeError, match=r"config must be .*, got NoneType"):
        verify(own, PARAMS, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"config must be .*, got dict"):
        verify(own, PARAMS, {"input_size": 3})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"precision must be .*, got 'best'"):
        verify(own, PARAMS, CONFIG, precision="best")
    with pytest.raises(TypeError, match="params must be the weights"):
        verify(lambda x, s, n: None, None, CONFIG)
    with pytest.raises(ValueError, match="missing weight_hh_l0"):
        verify(own, {"weight_ih_l0": np.ones((16, 3))}, CONFIG)
    with pytest.raises(ValueError, match="seed must be 0 or more, got -1"):
        verify(own, PARAMS, CONFIG, seed=-1)
    with pytest.raises(ValueError, match="against must name"):
        verify(own, PARAMS, CONFIG, against=("keras",))
    for dtype in ("int32", "floaty"):
        with pytest.raises(ValueError, match=f"dtype must be .*, got '{dtype}'"):
            verify(own, PARAMS, CONFIG, dtype=dtype)


@pytest.mark.parametrize("precision", ["bfloat16", None])
def test_precision_applies_to_every_run(precision):
    """The precision also applies to the runs that search for the cause."""
    config: Any = jax.config
    before, seen = config.jax_default_matmul_precision, set()

    def port(x, state, lengths, *, params):
        seen.add(config.jax_default_matmul_precision)
        return WrongPort(CONFIG, "order iofg")(x, state, lengths, params=params)

    report = verify(port, PARAMS, CONFIG, precision=precision, against="oracle")
    assert report.difference is not None
    assert report.difference.place.gate == "f"
    assert f", precision={precision!r}" in report.again
    assert seen == {precision or before}
    assert report.environment["jax matmul precision"] == str(precision or before)


@needs_torch
def test_torchs_own_error_is_reported():
    report = check(WrongPort(CONFIG), against=("oracle", "torch"))
    assert report.settings["against"] == "torch, oracle"
    items = {item.name: item for item in report.items}
    item = items["RMS error of results"]
    arrays = item.data["arrays"]
    assert {found["torch"] is None for found in arrays.values()} == {False}
    assert all(0 < found["torch"] < 1e-5 for found in arrays.values())
    assert "times the error of torch" in item.detail
    alone = check(WrongPort(CONFIG), against="oracle")
    items = {item.name: item for item in alone.items}
    assert "torch" not in items["RMS error of results"].detail
