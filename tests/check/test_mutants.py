"""Wrong ports are caught and at least nine of ten named correctly; right ports always pass.

`make test` runs a few mutants through `verify`, and a sixth through the criterion of semantics and the
search for causes. The slow tests run all of them through both. The verdict and the diagnosis follow from ids
and kinds: other displayed texts lead to the same faults.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from jaxlstm.check import verify, verify_model
from jaxlstm.check.criteria import accuracy, catalogue
from jaxlstm.check.diagnosis.lstm import FaultedOracle
from jaxlstm.check.diagnosis.search import Deadline
from jaxlstm.check.reference.oracle_lstm import OracleLSTM
from jaxlstm.check.subjects.port import Port
from jaxlstm.check.verification import Evidence, Verification
from jaxlstm.layer.config import LSTMConfig
from testing import right_ports
from testing.verification import MUTANTS, NOT_BY_SEMANTICS, WHOLE, config_for, random_params, small_cases
from testing.wrong_ports import BUGS, WrongPort


def marked(mutants, fast):
    """Return the mutants as parameters of a test, slow unless they are in ``fast``."""
    return [
        pytest.param(bugs, marks=() if bugs in fast else pytest.mark.slow, id=" and ".join(bugs))
        for bugs in mutants
    ]


BY_SEMANTICS = [bugs for bugs in MUTANTS if not NOT_BY_SEMANTICS & set(bugs)]
NO_CAUSE = ("output scaled",)


@pytest.mark.parametrize("bugs", marked(BY_SEMANTICS, [*BY_SEMANTICS[::6], NO_CAUSE, ("no h_0",)]))
def test_semantics_catch_and_search_names(bugs):
    config = config_for(bugs)
    params, cases = small_cases(config)
    port = Port.of(WrongPort(config, *bugs))
    evidence = [Evidence(case, port.run(params, case, np.float64), truth) for case, truth in cases]
    # Not even a loose limit accepts it.
    generous: dict[str, float] = dict.fromkeys(("outputs", "h_n", "c_n"), 1e-9)
    assert not all(accuracy.result_semantics(entry.results, entry.truth, generous).ok for entry in evidence)
    faulted = FaultedOracle(OracleLSTM(params, config), evidence)
    causes = "\n".join(map(str, faulted.explain(Deadline(60.0))))
    for bug in bugs:
        cause = BUGS[bug].cause
        assert cause is None or cause in causes
    if all(BUGS[bug].cause is None for bug in bugs):
        # No cause is better than a wrong one.
        assert not causes


# WHOLE begins with the mutants that semantics do not catch.
@pytest.mark.parametrize("bugs", marked(MUTANTS, WHOLE[: len(NOT_BY_SEMANTICS) + 2]))
def test_verify_catches_and_names(bugs):
    config = config_for(bugs)
    assert caught_and_named(bugs, random_params(config, seed=3), config) == (True, True)


def caught_and_named(bugs, params, config):
    port = WrongPort(config, *bugs)
    report = verify(port, params, config, gradients=False, seconds=60.0, against="oracle")
    causes = "\n".join(report.diagnosis)
    return not report.ok, all((BUGS[bug].cause or "") in causes for bug in bugs)


def random_config(rng):
    hidden = int(rng.integers(2, 12))
    return LSTMConfig(
        int(rng.integers(1, 9)),
        hidden,
        int(rng.integers(1, 4)),
        bias=bool(rng.integers(4)),
        bidirectional=bool(rng.integers(2)),
        proj_size=int(rng.integers(1, hidden)) if rng.integers(3) == 0 else 0,
    )


def not_accused(seed):
    rng = np.random.default_rng([seed, 77])
    config = random_config(rng)
    params = random_params(config, seed, scale=float(rng.choice([0.3, 1.0, 1.0, 3.0, 10.0])))
    port = right_ports.NUMPY[seed % len(right_ports.NUMPY)](config)
    report = verify(port, params, config, gradients=False, seed=seed)
    assert report.ok, f"seed {seed}: {report}"
    assert report.diagnosis == ()


# Seed 1810: sigmoid through tanh, at weights and states where its absolute error of a gate near 0 matters.
@pytest.mark.parametrize("seed", [*range(6), 1810])
def test_right_ports_are_not_accused(seed):
    not_accused(seed)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(40))
def test_2000_right_ports_are_not_accused(block):
    for seed in range(50 * block, 50 * block + 50):
        not_accused(1000 + seed)


CONFIG = LSTMConfig(3, 4, num_layers=2)
PARAMS = random_params(CONFIG)
OF_EACH_KIND = ("order iofg", "bfloat16 weights", "padding kept", "batch first", "stale state", "tf32")


def ports():
    """Return wrong ports that have not run, because one of them keeps its state."""
    return [WrongPort(CONFIG, bug) for bug in OF_EACH_KIND]


def weight_and_bias(module):
    return (p.detach().numpy() for p in module.parameters())


def models():
    """Return wrong models of a linear layer and a ReLU: in values, precision, shape and gradients.

    Ports that are wrong in precision or gradients are otherwise right.
    """
    torch.manual_seed(0)
    theirs = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    w, b = weight_and_bias(theirs)

    def imprecise(x):
        if x.dtype == jnp.float64:
            return jnp.maximum(x @ w.T + b, 0)
        operands = (jnp.asarray(a).astype(jnp.bfloat16).astype(x.dtype) for a in (x, w, b))
        x, weight, bias = operands
        return jnp.maximum(x @ weight.T + bias, 0)

    def with_double_gradients(x):
        return jnp.maximum((2 * x - jax.lax.stop_gradient(x)) @ w.T + b, 0)

    return theirs, (
        lambda x: jnp.maximum(x @ w.T, 0),
        imprecise,
        lambda x: jnp.maximum(x @ w.T + b, 0)[:, :1],
        with_double_gradients,
    )


def replace_texts(monkeypatch):
    """Replace the text of every criterion and the name of every case by random letters."""
    rng = np.random.default_rng(0)

    def text():
        return "".join(rng.choice(list("abcdefgh, "), 12))

    criteria = tuple(replace(criterion, text=text()) for criterion in catalogue.CRITERIA)
    for entry in ("_verify", "_verify_model"):
        monkeypatch.setattr(f"jaxlstm.check.{entry}.CRITERIA", criteria)
    try_case = Verification.try_case

    def try_renamed(self, case):
        return try_case(self, replace(case, name=text()))

    monkeypatch.setattr(Verification, "try_case", try_renamed)


def reports():
    found = [
        verify(port, PARAMS, CONFIG, gradients=False, against="oracle", seconds=60.0) for port in ports()
    ]
    theirs, ours = models()
    args = (torch.randn(4, 3, generator=torch.Generator().manual_seed(0)),)
    return found + [verify_model(model, theirs, args, seconds=60.0) for model in ours]


def test_other_texts_lead_to_the_same_faults(monkeypatch):
    """The models are wrong in what their names say."""
    expected = reports()
    *_, imprecise, _, with_double_gradients = expected
    assert {item.kind for item in imprecise.failures} == {"precision", "gradient"}
    assert "lose accuracy in float32" in imprecise.diagnosis[0]
    assert {item.kind for item in with_double_gradients.failures} == {"gradient"}
    replace_texts(monkeypatch)
    found = reports()
    assert len(found) == len(ports()) + len(models()[1])
    for before, after in zip(expected, found, strict=True):
        assert not after.ok
        assert {item.name for item in after.failures}.isdisjoint(item.name for item in before.failures)
        assert [(i.id, i.kind, i.ok, i.measured) for i in after.items if i.kind] == [
            (i.id, i.kind, i.ok, i.measured) for i in before.items if i.kind
        ]
        assert after.diagnosis == before.diagnosis
        assert after.diagnosis
