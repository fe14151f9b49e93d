"""verify: a port that raises or returns wrong arrays fails, and the report names the cause."""

import re

import jax
import numpy as np
import pytest

import jaxlstm
from jaxlstm.check import verify
from testing.verification import SMALL, SMALL_PARAMS, check, needs_torch, own, status
from testing.wrong_ports import WrongPort


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
    report = verify(jax.jit(port), SMALL_PARAMS, SMALL)
    found = status(report)
    assert found["float64 gradients against torch"] == "FAILED"
    assert found["float64 gradients against oracle"] == "FAILED"
    assert found["float64 semantics against oracle"] == "ok"
    assert found["step residual"] == "ok"
    assert cause in "; ".join(report.diagnosis)


def test_port_that_always_raises():
    def port(x, state, lengths, *, params):
        raise ValueError("not today")

    report = check(port)
    optional = {"no state": "untested", "length 0": "untested"}
    assert status(report) == {"runs": "FAILED", "step residual": "FAILED", **optional}
    assert report.diagnosis == ()


def in_a_library():
    np.linalg.inv(np.zeros((2, 2)))


def in_jaxlstm():
    jaxlstm.lstm(SMALL_PARAMS, np.zeros((0, 1, 3), np.float32), config=SMALL)


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
        if x.shape[1] == 1 and len(x) < 100:  # not in the long case
            fail()
        return WrongPort(SMALL)(x, state, lengths, params=params)

    report = check(port, against="oracle", seconds=0)
    assert [item.name for item in report.failures] == ["runs"]
    line = (last or fail).__code__.co_firstlineno + 1
    detail = report.failures[0].detail
    assert detail.startswith(f"batch 1: {message}")
    assert detail.endswith(f" (test_verify_faults.py:{line}); fails in batch 1")


class SingleSigmoid(WrongPort):
    def sigmoid(self, z):
        return super().sigmoid(z.astype(np.float32)).astype(z.dtype)


def test_float32_function_within_float64_is_named():
    report = check(SingleSigmoid(SMALL), against="oracle")
    assert [item.name for item in report.failures] == ["float64 semantics against oracle"]
    assert "a part of the computation is in float32" in report.diagnosis[0]
    assert re.search("in [ch], unit", report.diagnosis[1])


@pytest.mark.quick("neither")
@pytest.mark.parametrize(("h", "c"), [(None, 1), (1, None), (None, None)], ids=["h_n", "c_n", "neither"])
def test_port_without_final_state(h, c):
    @jax.jit
    def port(x, state, lengths, *, params):
        outputs, (h_n, c_n) = own(x, state, lengths, params=params)
        return outputs, (h and h_n, c and c_n)

    def without_gradient_of_outputs(x, state, lengths, *, params):
        outputs, state = port(x, state, lengths, params=params)
        return jax.lax.stop_gradient(outputs), state

    report = verify(port, SMALL_PARAMS, SMALL)
    assert report.ok, str(report)
    assert status(report)["step residual"] == "untested"
    assert status(report)["float64 gradients against oracle"] == "ok"
    report = verify(without_gradient_of_outputs, SMALL_PARAMS, SMALL, seconds=0)
    assert status(report)["float64 gradients against oracle"] == "FAILED"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y, h, c: (y.swapaxes(0, 1), (h, c)), "outputs has shape (5, 12, 4), expected (12, 5, 4)"),
        (
            lambda y, h, c: (y, (h.astype(np.float32), c)),
            "in float64, h_n has dtype float32, expected float64",
        ),
        (lambda y, h, c: (None, (h, c)), "the port returns h_n, c_n, expected outputs, h_n, c_n"),
    ],
    ids=["shape", "dtype", "outputs"],
)
def test_shape_and_dtype_are_reported(change, message):
    def port(x, state, lengths, *, params):
        outputs, (h_n, c_n) = WrongPort(SMALL)(x, state, lengths, params=params)
        return change(outputs, h_n, c_n)

    report = check(port, seconds=0)
    assert status(report)["shape and dtype"] == "FAILED"
    assert message in str(report)
