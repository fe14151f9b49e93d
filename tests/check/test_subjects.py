"""Subjects: a port is called by its signature, and the parameters of models are paired by their values."""

import functools

import jax
import numpy as np
import pytest

from jaxlstm.check import verify
from jaxlstm.check.cases import inputs as cases
from jaxlstm.check.subjects.pairing import pair_parameters
from jaxlstm.check.subjects.port import Port, own_port
from jaxlstm.layer.config import LSTMConfig
from testing.inference import compilations
from testing.products import products_of
from testing.verification import CONFIGS, random_params
from testing.wrong_ports import WrongPort

CONFIG = CONFIGS["plain"]


def everything(inputs, initial_state, seq_lengths): ...
def no_lengths(inputs, initial_state=None): ...
def inputs_only(x): ...
def with_params(inputs, initial_state, seq_lengths, *, params): ...
def params_first(params, inputs, initial_state): ...
def variadic(*arguments): ...


class Module:
    def __call__(self, x, state, lengths): ...


@pytest.mark.parametrize(
    ("call", "params", "state", "lengths"),
    [
        (everything, False, True, True),
        (no_lengths, False, True, False),
        (inputs_only, False, False, False),
        (with_params, True, True, True),
        (params_first, True, True, False),
        (variadic, False, True, True),
        (Module(), False, True, True),
        (jax.jit(no_lengths), False, True, False),
        (functools.partial(with_params, params=1), True, True, True),
        (lambda x, s, seq_lengths=None: None, False, True, True),
    ],
)
def test_signature(call, params, state, lengths):
    port = Port.of(call, {}, CONFIG)
    assert (port.takes_params, port.takes_state, port.takes_lengths) == (params, state, lengths)


def test_rejects_objects_that_are_not_callable():
    with pytest.raises(TypeError, match="port must be callable, got int"):
        Port.of(3, {}, CONFIG)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="got the signature"):
        Port.of(lambda: None, {}, CONFIG)


def test_rejects_malformed_results():
    port = Port.of(lambda x, state, lengths: x, {}, CONFIG)
    with pytest.raises(TypeError, match=r"port must return \(outputs, \(h_n, c_n\)\).*; got array$"):
        port.run(cases.ordinary_case(CONFIG), np.float32)


def test_float64_does_not_change_jax():
    config = CONFIGS["everything"]
    case = cases.ordinary_case(config)
    port = Port.of(own_port(config), random_params(config), config)
    results = port.run(case, np.float64, gradients=True)
    assert {a.dtype for a in results.arrays().values()} == {np.dtype(np.float64)}
    assert not jax.config.read("jax_enable_x64")


def test_precision_is_the_default_of_a_port():
    seen = []

    def port(x, state, lengths):
        seen.append(jax.config.jax_default_matmul_precision)  # type: ignore[attr-defined]
        return x, (None, None)

    case = cases.ordinary_case(CONFIG)
    Port.of(port, {}, CONFIG).run(case, np.float32)
    Port.of(port, {}, CONFIG, "tensorfloat32").run(case, np.float32)
    assert seen == ["highest", "tensorfloat32"]


def test_transfer_of_arrays_compiles_nothing():
    # Shapes that no other test uses, so that nothing is compiled yet.
    config, before = LSTMConfig(13, 7), compilations()
    port = Port.of(WrongPort(config), random_params(config), config)
    for dtype in (np.float32, np.float64):
        port.run(cases.ordinary_case(config), dtype)
    assert compilations() == before


@pytest.mark.parametrize(("precision", "level"), [("highest", "HIGHEST"), ("bfloat16", "DEFAULT")])
def test_precision_of_our_layer(precision, level):
    """The precision is the reported one, not the layer's default."""
    case, params = cases.ordinary_case(CONFIG), random_params(CONFIG)
    with jax.default_matmul_precision(precision):
        found = products_of(Port.of(own_port(CONFIG), params, CONFIG)._call, params, case.arrays, {})
    assert {product.level for product in found} == {level}


def test_float64_runs_on_the_cpu_if_the_device_lacks_it(monkeypatch):
    """A TPU emulates float64 with two float32, so float64 runs on the CPU and the report says so."""
    case = cases.ordinary_case(CONFIG)
    (cpu,) = jax.devices("cpu")
    seen = []

    def port(x, state, lengths):
        seen.append((x.dtype.name, jax.config.jax_default_device))  # type: ignore[attr-defined]
        return x, (None, None)

    monkeypatch.setattr("jaxlstm.check.reference.jax_runs.lacks_float64", lambda device: True)
    Port.of(port, {}, CONFIG).run(case, np.float64)
    Port.of(port, {}, CONFIG).run(case, np.float32)
    assert seen == [("float64", cpu), ("float32", None)]
    monkeypatch.setattr("jaxlstm.check.notes.lacks_float64", lambda device: True)
    report = verify(port, random_params(CONFIG), CONFIG, gradients=False, against="oracle", seconds=0)
    assert any("float64 runs were on the CPU" in note for note in report.notes)


RNG = np.random.default_rng(0)
CONV = RNG.normal(size=(6, 4, 3, 2)).astype(np.float32)
PACKED = RNG.normal(size=(12, 4)).astype(np.float32)


def pair(ours, theirs):
    return pair_parameters(ours, theirs, lambda a, b: False)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (CONV, CONV),
        (CONV, CONV.transpose(2, 3, 1, 0)),
        (CONV, np.flip(CONV, (2, 3)).transpose(2, 3, 0, 1)),
        (CONV, CONV.reshape(6, -1).T),
        (PACKED, PACKED[4:8].T.reshape(4, 2, 2)),
        (PACKED, PACKED[:, [2, 0, 3, 1]].T),
        (PACKED[:, :1], PACKED[:, 0]),
    ],
)
def test_layout_of_one_parameter(theirs, ours):
    pairing = pair({"layer.kernel": ours}, {"layer.weight": theirs})
    assert not pairing.unpaired
    gradient = RNG.normal(size=theirs.shape)
    ((layout,), *_) = pairing.choices["layer.kernel"]
    np.testing.assert_array_equal(theirs.ravel()[layout.index], ours)
    found = pairing.gradients({"layer.kernel": gradient.ravel()[layout.index]}, {"layer.weight": gradient})
    np.testing.assert_array_equal(found["layer.weight"], gradient)


def test_a_foreign_value_has_no_layout():
    assert pair({"a": CONV * 2, "b": CONV}, {"w": CONV}).unpaired == ["a"]


def test_summed_biases():
    b_ih, b_hh = RNG.normal(size=(2, 8)).astype(np.float32)
    theirs = {"lstm.bias_ih_l0": b_ih, "lstm.bias_hh_l0": b_hh}
    pairing = pair({"cell.hi.bias": (b_ih + b_hh)[:2], "cell.hf.bias": (b_ih + b_hh)[2:4]}, theirs)
    assert pairing.summed() == dict.fromkeys(
        ("cell.hi.bias", "cell.hf.bias"), ("lstm.bias_ih_l0", "lstm.bias_hh_l0")
    )
    gradients = {"cell.hi.bias": np.array([1.0, 2.0]), "cell.hf.bias": np.array([3.0, 4.0])}
    found = pairing.gradients(gradients, dict.fromkeys(theirs, np.full(8, 9.0)))
    for name in theirs:
        np.testing.assert_array_equal(found[name], [1, 2, 3, 4, 9, 9, 9, 9])


def test_tied_parameters_add_their_gradients():
    pairing = pair({"embed.embedding": PACKED, "head.kernel": PACKED.T}, {"embed.weight": PACKED})
    ones = np.ones((12, 4))
    found = pairing.gradients({"embed.embedding": ones, "head.kernel": 2 * ones.T}, {"embed.weight": ones})
    np.testing.assert_array_equal(found["embed.weight"], 3 * ones)


def test_equal_values_are_resolved_by_names():
    zeros = np.zeros(3, np.float32)
    theirs = {"a.bias": zeros, "b.bias": zeros}
    found = pair_parameters({"x.bias": zeros}, theirs, lambda ours, name: name == "b.bias")
    assert [layout.theirs for (layout,) in found.choices["x.bias"]] == ["b.bias"]


def test_repeated_values_leave_their_positions_open():
    weight = np.array([[1.0, 1.0, 2.0], [3.0, 4.0, 5.0]], np.float32)
    ours = weight.ravel()[[5, 0, 2, 1, 4, 3]]
    ((layout,),) = pair({"w": ours}, {"w": weight}).choices["w"]
    assert layout.index.tolist() == [5, -1, 2, -1, 4, 3]
