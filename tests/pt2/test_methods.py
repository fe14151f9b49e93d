"""from_module exports methods of a module, and verify_model checks them."""

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import jaxlstm
from testing.gradients import require_equal, require_results
from testing.written import assert_holds, written_program

REGISTERED: list[str] = []


class Alone(nn.Module):
    def rows(self, x: Tensor) -> Tensor:
        return len(x) * x


class Base(nn.Module):
    def __init_subclass__(cls) -> None:
        REGISTERED.append(cls.__name__)

    def __call__(self, x: Tensor, *args: Any) -> Any:
        return super().__call__(x * 2, *args)


class Model(Base):
    """``forward``, ``__call__`` and the hook differ from the methods."""

    def __init__(self, *, closes: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.alone, self.h = nn.Parameter(torch.ones(2)), torch.zeros(3)
        hooks: list[Any] = [lambda module, args, y: y + 1, lambda module, args, y: y + self.alone.sum()]
        self.register_forward_hook(hooks[0])
        if closes:  # The model is exported itself, not a copy.
            self.first.register_forward_hook(hooks[1])

    def forward(self, x: Tensor) -> Tensor:
        return self.encode(x) * 2

    def encode(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return torch.tanh(h) * int(x.shape[0] * 2)

    @torch.no_grad()
    def frozen(self, x: Tensor) -> Tensor:
        return self.encode(x)

    def around(self, x: Tensor) -> Tensor:
        assert type(self).__name__ == "Model"
        return self(x) + self.forward(x) * 3 + super().__call__(x)

    def remember(self, x: Tensor) -> Tensor:
        self.h = self.h + x[0]
        return self.encode(x) + self.h

    def power(self, x: Tensor, n: Tensor) -> Tensor:
        while n > 0:
            x, n = self.first(x), n - 1
        return x


NAMES = ("encode", "frozen", "around", "forward", "__call__")


@pytest.mark.parametrize(("name", "closes"), [("around", True), *((name, False) for name in NAMES)])
def test_values_and_gradients(name: str, closes: bool) -> None:
    """At several sizes, with the parameters of the whole module."""
    torch.manual_seed(0)  # The gradients of a few others cancel.
    model = Model(closes=closes).eval()
    before, registered = dict(vars(model)), list(REGISTERED)
    program = jaxlstm.from_module(model, (torch.randn(2, 3, requires_grad=True),), method=name)
    for rows in (2, 4):
        require_equal(program, getattr(model, name), torch.randn(rows, 3, requires_grad=True))
    assert set(program.params) == {name for name, _ in model.named_parameters()}
    assert {key for key, value in vars(model).items() if value is not before[key]} == set()
    assert type(model) is Model
    assert registered == REGISTERED


def test_programs_of_a_bound_method(tmp_path: Path) -> None:
    """Saved, pickled and compiled; of a class without forward."""
    assert jaxlstm.from_module(Alone().eval().rows, (torch.ones(2),)).inputs[0].fixed == {}
    model, x = Model().eval(), torch.randn(2, 3)
    program = jaxlstm.from_module(model.encode, (x,))
    program.save(tmp_path / "encode.pt2")
    for other in (jaxlstm.load_program(tmp_path / "encode.pt2"), pickle.loads(pickle.dumps(program))):
        require_equal(other, model.encode, x)
    expected = model.encode(x).detach()
    np.testing.assert_allclose(jaxlstm.inference.compile(program)(x.numpy()), expected, atol=1e-6)


def test_a_program_and_its_source_beside_the_method() -> None:
    model, x = Model().eval(), (torch.randn(2, 3),)
    programs = {name: jaxlstm.from_module(model, x, method=name) for name in ("encode", "frozen", "around")}
    lasts = {"encode": "return torch.tanh(h) * int(x.shape[0] * 2)", "frozen": "return self.encode(x)"}
    for name, last in lasts.items():
        calls = [node.calls for node in programs[name].graph.nodes if node.calls and node.calls[0].line]
        assert calls[0][-2].line == "h = self.first(x)"
        assert calls[-1][0].line == last
        assert {call.class_name.rpartition(".")[2] for path in calls for call in path} == {"Model", "Linear"}
    jaxlstm.check.verify_model(programs["encode"], model.encode, x).raise_if_failed()
    assert not jaxlstm.check.verify_model(programs["encode"], model.forward, x).ok
    written = written_program(programs["around"])
    assert re.findall(r"class \w+\(nnx.Module|def \w+", written.text) == [
        *("class Model(nnx.Module", "def __init__", "def encode", "def __call__")
    ]
    assert_holds(written, *x)


def test_warnings_name_the_method() -> None:
    model, x = Model().eval(), torch.randn(2, 3)
    with pytest.warns(UserWarning, match=r"remember changes self\.h at .* results of remember"):
        jaxlstm.from_module(model.remember, (x,))
    with pytest.warns(UserWarning, match=r"the method power .* The loop .* docs/decoding\.md"):
        program = jaxlstm.from_module(model.power, (x, torch.tensor(2)))
    for n in (2, 0, 3):
        require_results(program, model.power, x, torch.tensor(n), jit=False, atol=1e-6)


def test_methods_that_are_refused() -> None:
    model: Any = Model()
    for module, method, kind, message in (
        (model, "decode", ValueError, r"a method of Model \(around, encode, .*remember\), got 'decode'"),
        (model, "first", ValueError, r"a method of Model .* got 'first'"),
        (model.encode, "encode", TypeError, "not be given with the bound method encode, got 'encode'"),
        (Path("a").with_suffix, None, TypeError, r"torch\.nn\.Module, got a method of (Posix|Windows)Path"),
    ):
        with pytest.raises(kind, match=message):
            jaxlstm.from_module(module, (torch.ones(2, 3),), method=method)
