"""from_module gives the program of a live module, with batch and time free."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.exc import UserError
from torch.fx.experimental.proxy_tensor import make_fx

import jaxlstm
from jaxlstm.programs.errors import ProgramError
from jaxlstm_converters.pt2.export_patches import free_time
from testing.exported import Recogniser

pytestmark = pytest.mark.usefixtures("fast_compilation")


class Lazy(nn.Module):
    """Buffers whose conjugate and sign torch applies when it reads them."""

    conjugate: torch.Tensor
    negative: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("conjugate", torch.tensor([1 + 2j, 3 - 1j]).conj())
        self.register_buffer("negative", torch.tensor([1 + 2j, 3 - 1j]).conj().imag)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x * self.conjugate, x * self.negative


class Shared(nn.Module):
    """A buffer that changes, and another one in the same storage."""

    state: torch.Tensor
    other: torch.Tensor

    def __init__(self, start: int, end: int) -> None:
        super().__init__()
        storage = torch.zeros(6)
        self.register_buffer("state", storage[:3])
        self.register_buffer("other", storage[start:end])

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.state.add_(x)
        return self.state * 2, self.other + 1


def assert_same(program: jaxlstm.Program, module: nn.Module, *args: Any, **kwargs: Any) -> None:
    """Assert that a program gives torch's results."""
    with torch.no_grad():
        expected = jax.tree.leaves(module(*args, **kwargs))
    args, kwargs = jax.tree.map(_as_input, (args, kwargs))
    actual = jax.tree.leaves(program(program.params, *args, **kwargs))
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def _as_input(leaf: Any) -> Any:
    return leaf.numpy() if torch.is_tensor(leaf) else leaf


def test_recogniser(tmp_path: Path) -> None:
    """The width of the picture, which becomes time, and the batch are free, and 1 is a valid batch."""
    module = Recogniser().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        program = jaxlstm.from_module(module, (torch.randn(2, 1, 8, 12),))
    for shape in ((2, 1, 8, 12), (3, 1, 8, 20), (1, 1, 8, 6)):
        assert_same(program, module, torch.randn(shape))
    program.save(tmp_path / "a.pt2")
    assert_same(jaxlstm.load_program(tmp_path / "a.pt2"), module, torch.randn(4, 1, 8, 10))


def test_earlier_export() -> None:
    """An earlier plain export of an LSTM in the same process does not fix the time axis."""
    module = nn.LSTM(3, 2).eval()
    x = torch.randn(5, 2, 3)
    _require_plain_export_fails(module, x)
    program = jaxlstm.from_module(module, (x,))
    assert_same(program, module, torch.randn(9, 4, 3))
    # from_module leaves no trace.
    _require_plain_export_fails(module, x)


def _require_plain_export_fails(module: nn.Module, x: torch.Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(UserError, match="specialized"):
            torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))


def test_real_tensors_keep_their_values() -> None:
    """A trace of real tensors computes a layer, although an export needs only its shapes."""
    module, x = nn.GRU(3, 4).eval(), torch.randn(5, 2, 3)
    with free_time():
        traced = make_fx(module, tracing_mode="real", pre_dispatch=True)(x)
    assert any(node.target is torch.ops.aten.gru.input for node in traced.graph.nodes)
    torch.testing.assert_close(traced(x), module(x))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_modules_and_arguments_that_are_refused() -> None:
    calls: list[tuple[Any, Any, str]] = [
        (1, (), r"torch_module must be a torch\.nn\.Module, got int"),
        (nn.Linear(2, 2), torch.randn(2), r"args must be a tuple .* got Tensor"),
        (nn.Linear(2, 2), (np.ones(2),), "args must hold torch tensors, got ndarray; use torch.from_numpy"),
        (torch.jit.script(nn.Linear(2, 2)), (torch.ones(2, 2),), "ScriptModule.*load_state_dict"),
    ]
    for module, args, message in calls:
        with pytest.raises(TypeError, match=message):
            jaxlstm.from_module(module, args)


def test_a_saved_program_holds_no_paths_of_source_files(tmp_path: Path) -> None:
    class Doubled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return x * 2

    jaxlstm.from_module(Doubled().eval(), (torch.randn(2, 3),)).save(tmp_path / "doubled.pt2")
    assert b".py" not in (tmp_path / "doubled.pt2").read_bytes()


def test_lazy_conjugates_and_negatives() -> None:
    module, x = Lazy(), torch.randn(2)
    assert_same(jaxlstm.from_module(module, (x,)), module, x)


@pytest.mark.parametrize(("start", "end"), [(0, 3), (2, 4)])
def test_a_buffer_that_changes_and_shares_memory_is_refused(start: int, end: int) -> None:
    with pytest.raises(ProgramError, match=r"changes (state|other).*shares memory.*\.clone\(\)") as caught:
        jaxlstm.from_module(Shared(start, end), (torch.randn(3),))
    assert caught.value.code == "unsupported-alias"


def test_a_buffer_that_changes_beside_another_in_one_storage() -> None:
    program = jaxlstm.from_module(Shared(3, 6), (torch.randn(3),))
    assert_same(program, Shared(3, 6), torch.randn(3))
