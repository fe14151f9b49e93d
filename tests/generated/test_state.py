"""Random modules with attributes, hooks and NumPy values: their programs are right, warned of or refused."""

import copy
import linecache
import random
import re
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import jaxlstm
from jaxlstm.programs.errors import ProgramError
from testing.graphs import to_numpy
from testing.modules import module_of
from testing.seeds import seeds


class Reverse(torch.autograd.Function):
    """The identity with the opposite gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return -grads[0]


# A statement of forward, with the first value of its attribute and the warning: none, of state, or of a hook.
# One without a value and warning may be refused.
STATEMENTS: list[tuple[str, Any, str]] = [
    ("y, s.{0} = s.rnn(x, s.{0}); x = y", None, "self.{0} at"),
    ("s.{0} = x.mean() + s.{0}; x = x * s.{0}", torch.ones(()), "self.{0} at"),
    ("s.{0} += 1; x = x * s.{0}", 1, "self.{0} at"),
    ("s.{0}.add_(x.mean()); x = x + s.{0}", torch.ones(()), "{0} at"),
    ("x = x + s.{0}.get('h', 0); s.{0}['h'] = x[:1]", {}, "self.{0}['h'] at"),
    ("s.{0}.append(x.mean()); x = sum(s.{0}) + x", [], "self.{0} at"),
    ("s.{0}.count += 1; x = x * s.{0}.count", SimpleNamespace(count=0), "self.{0}.count at"),
    ("s.{0}[0] += 1; x = x * float(s.{0}[0])", np.zeros(2), "self.{0} at"),
    ("type(s).{0} = 2; x = x * type(s).{0}", None, "Model.{0} at"),
    ("s.{0} = x.shape[0]; x = x * s.{0}", 0, ""),
    ("s.{0} = x.tanh(); x = s.{0} + 1", None, ""),
    ("x = x * getattr(s.linear.bias, 'scale', 1.0)", 0, ""),
    ("x = x + s.offset.by if hasattr(s.offset, 'by') else x", 0, ""),
    ("x.register_hook(lambda g: -g) if x.requires_grad else None", 0, "the hook at .* is not run"),
    ("x = Reverse.apply(x)", 0, "gradients through Reverse"),
    ("x = s.hooked(x)", 0, "backward hook of hooked is not run"),
    ("x = x + torch.from_numpy(np.arange(3, dtype=np.float32))", 0, ""),
    ("c = torch.ones(2); c.numpy()[0] = 3.; x = x * 2 if c[0] > 2 else x * 5", 0, "refused"),
    ("a = np.ones(3, np.float32); c = torch.from_numpy(a); x = x * c; a[0] = 7.; x = x + c", 0, "refused"),
    ("c = torch.zeros(3); n = np.asarray(c); c += 2; x = x + float(n[0])", 0, "refused"),
    ("m = (x > 0).numpy(); m[0] = True; x = x * torch.from_numpy(m)", 0, "fixed parts of the model"),
]


def random_module(rng: random.Random) -> tuple[nn.Module, list[str]]:
    """Return a module of some statements, and what their warnings must match."""
    chosen = rng.sample(STATEMENTS, rng.randint(1, 4))
    body = [
        "x = s.linear(x)",
        *(code.format(f"a{n}") for n, (code, _, _) in enumerate(chosen)),
        "return x.sin()",
    ]
    names = {"torch": torch, "np": np, "Reverse": Reverse}
    text = "def forward(s, x):\n    " + "\n    ".join(body)
    linecache.cache["a_model.py"] = len(text), None, text.splitlines(keepends=True), "a_model.py"
    exec(compile(text, "a_model.py", "exec"), names)
    module: Any = module_of(
        names["forward"], linear=nn.Linear(3, 3), rnn=nn.GRU(3, 3), hooked=nn.Linear(3, 3)
    )
    module.linear.bias.scale = 3.0
    module.register_buffer("offset", torch.zeros(3))
    module.offset.by = torch.ones(3)
    for n, (_, value, _) in enumerate(chosen):
        object.__setattr__(module, f"a{n}", copy.deepcopy(value))
    if any("hooked" in code for code, _, _ in chosen):
        module.hooked.register_full_backward_hook(lambda module, given, grads: (-given[0],))
    return module, [text.format(f"a{n}") for n, (_, _, text) in enumerate(chosen) if text]


def values_of(module: nn.Module) -> dict[tuple[str, str], str]:
    owners = [item for name, part in module.named_modules() for item in ((name, part), ("class", type(part)))]
    return {(name, key): str(value) for name, owner in owners for key, value in vars(owner).items()}


@pytest.mark.parametrize("seed", seeds(fast=4, slow=300))
def test_a_random_module(seed: int) -> None:
    torch.manual_seed(seed)
    module, texts = random_module(random.Random(seed))
    x, before = torch.randn(4, 3), values_of(module)
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        try:
            program = jaxlstm.from_module(module, (x,))
        except (ProgramError, RuntimeError):
            assert "refused" in texts
            return
        finally:
            assert values_of(module) == before
    shown = " ".join(str(warning.message) for warning in caught)
    assert [text for text in texts if not re.search(text.replace("[", r"\["), shown)] == []
    assert texts or not shown
    np.testing.assert_allclose(program(program.params, to_numpy(x)), to_numpy(module(x)), atol=1e-5)
