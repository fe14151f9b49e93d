"""The arguments of a port follow its signature; its results are checked."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from jaxlstm.check.cases import lstm as cases
from jaxlstm.check.notes import port_notes
from jaxlstm.check.subjects.port import Port, own_port
from jaxlstm.layer.config import LSTMConfig
from testing.products import products_of
from testing.verification import CONFIGS, random_params, run_of
from testing.wrong_ports import WrongPort


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
    port = Port.of(call)
    assert (port.takes_params, port.takes_state, port.takes_lengths) == (params, state, lengths)


def test_rejects_objects_that_are_not_callable():
    with pytest.raises(TypeError, match="port must be callable, got int"):
        Port.of(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="got the signature"):
        Port.of(lambda: None)


def test_rejects_malformed_results():
    config = CONFIGS["plain"]
    case = cases.ordinary_case(config)
    port = Port.of(lambda x, state, lengths: x)
    with pytest.raises(TypeError, match=r"port must return \(outputs, \(h_n, c_n\)\).*; got array$"):
        port.run(random_params(config), case, np.float32)


def test_float64_does_not_change_jax():
    config = CONFIGS["everything"]
    case = cases.ordinary_case(config)
    results = own_port(config).run(random_params(config), case, np.float64, gradients=True)
    assert {a.dtype for a in results.arrays().values()} == {np.dtype(np.float64)}
    assert not jax.config.read("jax_enable_x64")


def test_precision_is_the_default_of_a_port():
    seen = []

    def port(x, state, lengths):
        seen.append(jax.config.jax_default_matmul_precision)  # type: ignore[attr-defined]
        return x, (None, None)

    case = cases.ordinary_case(CONFIGS["plain"])
    Port.of(port).run({}, case, np.float32)
    Port.of(port).run({}, case, np.float32, precision="tensorfloat32")
    assert seen == ["highest", "tensorfloat32"]


def test_port_without_lengths():
    case = cases.ordinary_case(CONFIGS["plain"])
    assert Port.of(no_lengths).adapt(case).seq_lengths is None
    assert Port.of(no_lengths).adapt(case).initial_state is not None
    assert Port.of(inputs_only).adapt(case).initial_state is None


def test_transfer_of_arrays_compiles_nothing():
    compiled = []

    def listen(event, duration_secs, **kwargs):
        if "backend_compile" in event:
            compiled.append(event)

    # Shapes that no other test uses, so that nothing is compiled yet.
    config = LSTMConfig(13, 7)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        port = Port.of(WrongPort(config))
        for dtype in (np.float32, np.float64):
            port.run(random_params(config), cases.ordinary_case(config), dtype)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert compiled == []


@pytest.mark.parametrize(("precision", "level"), [("highest", "HIGHEST"), ("bfloat16", "DEFAULT")])
def test_precision_of_our_layer(precision, level):
    """The precision is the reported one, not the layer's default."""
    config = CONFIGS["plain"]
    case = cases.make_case("t", config, np.random.default_rng(0), time=3, batch=2)
    with jax.default_matmul_precision(precision):
        found = products_of(own_port(config)._call, random_params(config), case.arrays, {})
    assert {product.level for product in found} == {level}


def test_float64_runs_on_the_cpu_if_the_device_lacks_it(monkeypatch):
    """A TPU emulates float64 with two float32, so float64 runs on the CPU and the report says so."""
    config = CONFIGS["plain"]
    case = cases.make_case("t", config, np.random.default_rng(0), time=3, batch=2)
    (cpu,) = jax.devices("cpu")
    seen = []

    def port(x, state, lengths):
        seen.append((x.dtype.name, jax.config.jax_default_device))  # type: ignore[attr-defined]
        return x, (None, None)

    monkeypatch.setattr("jaxlstm.check.subjects.jax_settings.lacks_float64", lambda device: True)
    Port.of(port).run({}, case, np.float64)
    Port.of(port).run({}, case, np.float32)
    assert seen == [("float64", cpu), ("float32", None)]
    monkeypatch.setattr("jaxlstm.check.notes.lacks_float64", lambda device: True)
    run, subject = run_of(port, {}, config, references=("oracle",))
    notes = port_notes(run, subject, ("oracle",))
    assert any("float64 runs were on the CPU" in note for note in notes)
