"""The catalogues of faults: each changes the result in its own way, and as a port with that fault."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import rnn

from jaxlstm.check.cases.case import Case
from jaxlstm.check.cases.inputs import standard_cases
from jaxlstm.check.reference.faults.catalogue import catalogue
from jaxlstm.check.reference.oracle_lstm import OracleLSTM
from jaxlstm.check.reference.torch_faults.planted import run_planted, variants
from jaxlstm.check.reference.torch_model import TorchModel
from jaxlstm.layer.config import LSTMConfig
from testing.modules import module_of
from testing.verification import random_params

WHOLE = LSTMConfig(4, 5, num_layers=3, bidirectional=True, proj_size=3)
SQUARE = LSTMConfig(5, 5, num_layers=3, bidirectional=True)


def answers(config):
    """Return the oracle's results with each fault, over four cases, as one vector per cause."""
    params = random_params(config, scale=1.5, dtype=np.float64)
    cases = [c for c in standard_cases(config) if c.name in ("ragged", "dense", "one step", "saturating")]
    calls = [OracleLSTM(params, config).call(case) for case in cases]

    def numbers(apply):
        found = [call.finished(call.run()).results for call in map(apply, calls)]
        return np.concatenate([a.ravel() for f in found for a in f.values()])

    return numbers(lambda call: call), {f.cause: numbers(f.apply) for f in catalogue(config)}


@pytest.mark.parametrize("config", [WHOLE, SQUARE])
def test_every_fault_changes_the_result_differently(config):
    truth, by_cause = answers(config)
    # Causes are unique.
    assert len(by_cause) == len(catalogue(config))
    assert all(type(cause) is str for cause in by_cause)
    seen: dict[bytes, str] = {}
    for cause, found in by_cause.items():
        assert not np.array_equal(found, truth), cause
        twin = seen.setdefault(found.tobytes(), cause)
        assert twin == cause


X = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(0))


def last_operation(module, x):
    run = run_planted(TorchModel(module), Case.of_model("x", (x,), {}), np.float32, {}, traced=True)
    return list(run.operations.values())[-1]


def with_fault(module, x, cause):
    """Return the module's output with the only fault of its last operation whose cause contains a text."""
    operation = last_operation(module, x)
    (variant,) = (v for v in variants(operation) if cause in v.cause)
    result = variant.apply(operation)
    return result[0] if isinstance(result, tuple) else torch.as_tensor(result)


def same_weights(module, other):
    other.load_state_dict(module.state_dict())
    return other


CONV = nn.Conv1d(6, 4, 3, padding=2, dilation=2)


@pytest.mark.parametrize(
    ("module", "x", "cause", "wrong"),
    [
        (CONV, X, "has a dilation of 1", same_weights(CONV, nn.Conv1d(6, 4, 3, padding=2))),
        (nn.Softplus(), X, "is relu", nn.ReLU()),
        (module_of(lambda _, x: x[:, -1]), X, "is [:, 0] instead of [:, -1]", lambda x: x[:, 0]),
        (module_of(lambda _, x: x[:1, ..., 0]), X, "is [:1, ..., -1] instead", lambda x: x[:1, ..., -1]),
        (module_of(lambda _, x: x.flatten(1)), X, "in the order 2, 1", lambda x: x.mT.flatten(1)),
        (
            module_of(lambda _, x: x.reshape(1, 2, 1, 54)),
            X,
            "merges axes 1, 2 in the order 2, 1",
            lambda x: x.mT.reshape(1, 2, 1, 54),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_fault(module, x, cause, wrong):
    with torch.no_grad():
        torch.testing.assert_close(with_fault(module, x, cause), wrong(x))
        assert wrong(x).shape != module(x).shape or not torch.allclose(wrong(x), module(x))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_outputs_instead_of_h_n(packed, bidirectional, kind):
    """The fault replaces h_n of the last layer. Outputs are zero where a sequence has ended."""
    lstm = kind(9, 4, num_layers=2, bidirectional=bidirectional)
    pack = partial(rnn.pack_padded_sequence, lengths=torch.tensor([2, 2, 2, 2, 1, 1]))
    operation = last_operation(module_of(lambda _, x: lstm(pack(x) if packed else x)), X)
    (variant,) = (v for v in variants(operation) if "instead of h_n" in v.cause)
    with torch.no_grad():
        outputs, final = lstm(pack(X) if packed else X)
        h_n, *c_n = final if kind is nn.LSTM else (final,)
        faulty = variant.apply(operation)
    torch.testing.assert_close(faulty[0], outputs.data if packed else outputs)
    y = rnn.pad_packed_sequence(outputs)[0] if packed else outputs
    last = torch.stack(y[-1].chunk(2 if bidirectional else 1, -1))
    torch.testing.assert_close(faulty[1], torch.cat((h_n[: -len(last)], last)))
    torch.testing.assert_close(list(faulty[2:]), c_n)
