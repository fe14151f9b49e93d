"""verify: params, seed, precision, references, tolerances, and the environment of the report."""

from typing import Any

import jax
import numpy as np
import pytest

from jaxlstm.check import verify
from jaxlstm.check.notes import environment
from jaxlstm.check.reference import torch_lstm
from jaxlstm.layer.params import init_bound, param_shapes
from testing.verification import SMALL, SMALL_PARAMS, check, needs_torch, status
from testing.wrong_ports import WrongPort


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
        report = verify(port, None, SMALL, seed=seed, gradients=False, against="oracle", **options)
        assert report.title == "Recording in float32"
        return {name: np.asarray(a) for name, a in port.seen[0].items()}

    found, again, other = drawn(5), drawn(5), drawn(6)
    assert {name: a.shape for name, a in found.items()} == param_shapes(SMALL)
    assert {a.dtype for a in found.values()} == {np.dtype(np.float32)}
    numbers = np.concatenate([a.ravel() for a in found.values()])
    assert np.abs(numbers).max() <= init_bound(SMALL)
    assert np.ptp(numbers) > 1.9 * init_bound(SMALL)
    assert all(np.array_equal(a, again[name]) for name, a in found.items())
    assert not np.array_equal(found["bias_ih_l0"], other["bias_ih_l0"])


def test_params_may_be_in_any_order():
    port = Recording()
    params = dict(reversed(SMALL_PARAMS.items()))
    verify(port, params, SMALL, gradients=False, against="oracle", precision="tensorfloat32")
    jax.tree.map(np.testing.assert_array_equal, port.seen[0], SMALL_PARAMS)


@pytest.mark.parametrize(
    ("bug", "precision", "cause"),
    [
        ("batch first", "bfloat16", "the port is batch-first"),
        ("order iofg", "bfloat16", "i, o, f, g"),
        ("order iofg", None, "i, o, f, g"),
    ],
)
def test_precision_applies_to_every_run(bug, precision, cause):
    """The precision also applies to the runs that search for the cause."""
    config: Any = jax.config
    before, seen = config.jax_default_matmul_precision, set()

    def port(x, state, lengths, *, params):
        seen.add(config.jax_default_matmul_precision)
        return WrongPort(SMALL, bug)(x, state, lengths, params=params)

    report = check(port, precision=precision, against="oracle")
    assert cause in "; ".join(report.diagnosis)
    assert (bug == "batch first") == (report.difference is None)
    assert report.settings["precision"] == precision
    assert seen == {precision or before}
    assert report.environment["jax matmul precision"] == str(precision or before)


def test_oracle_judges_without_torch(monkeypatch):
    monkeypatch.setattr(torch_lstm, "is_available", lambda: False)
    monkeypatch.setattr(torch_lstm.TorchLSTM, "run", None)
    report = check(WrongPort(SMALL))
    assert report.ok, str(report)
    assert "torch is not installed" in " ".join(report.notes)
    assert "torch" not in report.environment
    assert "float64 semantics against torch" not in status(report)
    with pytest.raises(ValueError, match="only torch, which is not installed"):
        verify(WrongPort(SMALL), SMALL_PARAMS, SMALL, against="torch")


@needs_torch
def test_torch_only():
    report = check(WrongPort(SMALL), against="torch")
    assert report.ok, str(report)
    assert "float64 semantics against oracle" not in status(report)
    wrong = check(WrongPort(SMALL, "no c_0"), against="torch")
    assert status(wrong)["float64 semantics against torch"] == "FAILED"


def test_tolerances_replace_the_criteria():
    port = WrongPort(SMALL, "bfloat16 weights")
    loose = check(port, rtol=1e-1, atol=1e-1)
    assert loose.ok, str(loose)
    assert "tolerances set by the caller" in " ".join(loose.notes)
    assert "step residual" not in status(loose)
    tight = check(port, rtol=0.0, atol=1e-7)
    assert status(tight)["within the tolerance"] == "FAILED"
    assert "the weights are rounded to bfloat16" in "; ".join(tight.diagnosis)
    with pytest.raises(ValueError, match="without atol"):
        verify(port, SMALL_PARAMS, SMALL, rtol=1.0)


def test_rejects_invalid_arguments():
    with pytest.raises(TypeError, match=r"config must be .*, got dict"):
        verify(WrongPort(SMALL), SMALL_PARAMS, {"input_size": 3})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"precision must be .*, got 'best'"):
        verify(WrongPort(SMALL), SMALL_PARAMS, SMALL, precision="best")
    with pytest.raises(TypeError, match="params must be the weights"):
        verify(lambda x, s, n: None, None, SMALL)
    with pytest.raises(TypeError, match=r"params must be a mapping .*, got an array"):
        verify(WrongPort(SMALL), np.ones((16, 3)), SMALL)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="missing weight_hh_l0"):
        verify(WrongPort(SMALL), {"weight_ih_l0": np.ones((16, 3))}, SMALL)
    with pytest.raises(ValueError, match="seed must be 0 or more, got -1"):
        verify(WrongPort(SMALL), SMALL_PARAMS, SMALL, seed=-1)
    with pytest.raises(ValueError, match="against must name"):
        verify(WrongPort(SMALL), SMALL_PARAMS, SMALL, against=("keras",))
    for dtype in ("int32", "floaty"):
        with pytest.raises(ValueError, match=f"dtype must be .*, got '{dtype}'"):
            verify(WrongPort(SMALL), SMALL_PARAMS, SMALL, dtype=dtype)


@pytest.mark.parametrize("precision", ["highest", None])
def test_environment(monkeypatch, precision):
    """It has the flags that change products, and the precision in force."""
    # Initialize XLA first: it would reject the unknown flag.
    jax.devices()
    monkeypatch.setenv("XLA_FLAGS", "--a_flag")
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    with jax.default_matmul_precision("tensorfloat32"):
        found = environment(precision, with_torch=False)
    assert found["jax matmul precision"] == (precision or "tensorfloat32")
    assert (found["XLA_FLAGS"], found["NVIDIA_TF32_OVERRIDE"]) == ("--a_flag", "0")
    assert found["jax"] == jax.__version__
