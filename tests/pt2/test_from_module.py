"""from_module gives the program of a live module, with free axes, and names the lines that fix others."""

import re
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.exc import UserError

import jaxlstm
from jaxlstm.programs.errors import ProgramError
from testing.gradients import assert_close, require_equal, require_results
from testing.modules import module_of
from testing.written import written_program


def shared(start: int, end: int) -> nn.Module:
    """Return a module with a buffer that changes, and another one in the same storage."""
    storage = torch.zeros(6)
    forward = lambda self, x: (self.state.add_(x) * 2, self.other + 1)  # noqa: E731
    return module_of(forward, state=storage[:3], other=storage[start:end])


def test_earlier_export() -> None:
    """An earlier plain export of an LSTM in the same process does not fix the time axis."""
    module = nn.LSTM(3, 2).eval()
    x = torch.randn(5, 2, 3)
    _require_plain_export_fails(module, x)
    require_equal(jaxlstm.from_module(module, (x,)), module, torch.randn(9, 4, 3))
    # from_module leaves no trace.
    _require_plain_export_fails(module, x)


def _require_plain_export_fails(module: nn.Module, x: torch.Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(UserError, match="specialized"):
            torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))


def test_a_batch_of_one_is_fixed_with_a_warning() -> None:
    """Unless the caller chose the free axes."""
    with pytest.warns(UserWarning, match=r"axis 0 of input has size 1 .* an example of two rows"):
        jaxlstm.from_module(nn.Linear(2, 2).eval(), (torch.ones(1, 2),))
    jaxlstm.from_module(nn.Linear(2, 2).eval(), (torch.ones(1, 2),), dynamic_shapes=({},))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_modules_and_arguments_that_are_refused() -> None:
    calls: list[tuple[Any, Any, str]] = [
        (1, (), r"torch_module must be a torch\.nn\.Module, got int"),
        (nn.Linear(2, 2), torch.randn(2), r"args must be a tuple .* got Tensor"),
        (nn.Linear(2, 2), (np.ones(2),), "args must hold torch tensors, got ndarray; use torch.from_numpy"),
        (nn.Linear(2, 2), ((torch.ones(2), np.ones(2)),), "args must hold torch tensors, got ndarray"),
        (nn.Sequential(torch.jit.script(nn.Linear(2, 2))), (torch.ones(2),), "0 is a Script.*load_state"),
    ]
    for module, args, message in calls:
        with pytest.raises(TypeError, match=message):
            jaxlstm.from_module(module, args)
    with pytest.raises(
        RuntimeError, match=r"NumPy array of a tensor that depends on its inputs, at .*cpu\(\)"
    ):
        jaxlstm.from_module(module_of(lambda self, x: x.argmax(-1).cpu().numpy() + 1), (torch.ones(2, 3),))


def test_an_older_torch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.12.1+cu130")
    with pytest.raises(ImportError, match=r"needs torch 2\.13 or newer, got 2\.12\.1.*load_program"):
        jaxlstm.from_module(nn.Linear(2, 2).eval(), (torch.ones(2, 2),))


@pytest.mark.parametrize(("start", "end"), [(0, 3), (2, 4)])
def test_a_buffer_that_changes_and_shares_memory_is_refused(start: int, end: int) -> None:
    with pytest.raises(ProgramError, match=r"changes (state|other).*shares memory.*\.clone\(\)") as caught:
        jaxlstm.from_module(shared(start, end), (torch.randn(3),))
    assert caught.value.code == "unsupported-alias"


def test_a_buffer_that_changes_beside_another_in_one_storage() -> None:
    program = jaxlstm.from_module(shared(3, 6), (torch.randn(3),))
    require_equal(program, shared(3, 6), torch.randn(3))


@pytest.mark.filterwarnings("ignore:.*fixed parts of the model")
def test_parameters_that_a_module_also_holds_in_a_list() -> None:
    """torch takes them for constants, which have no gradient."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        steps = int(x.abs().argmax()) + 1 if x.ndim == 1 else 1  # A trace with values, or a plain export.
        for _ in range(steps):
            x = x * self.parts[0] + self.parts[1]
        return x

    module: Any = module_of(forward, weight=nn.Parameter(torch.randn(3)), bias=torch.randn(3))
    module.parts = [module.weight, module.bias]
    for shape in ((3,), (2, 3)):
        x = torch.rand(shape, requires_grad=True)
        program = jaxlstm.from_module(module, (x,))
        require_equal(program, module, x)
        assert not program.constants
        assert program.buffers.keys() == {"bias"}


def test_a_parameter_that_a_call_made_of_itself() -> None:
    """In evaluation mode, dropout returns the parameter, which becomes one under a second name."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        rnn = self.rnn
        rnn.weight_hh_l0 = nn.functional.dropout(rnn.weight_raw, 0.5, self.training)
        return rnn(x)[0]

    rnn: Any = nn.RNN(3, 4)
    rnn.weight_raw = rnn.weight_hh_l0
    del rnn.weight_hh_l0
    module, x = module_of(forward, rnn=rnn).eval(), torch.randn(3, 2, 3)
    module(x)
    assert "weight_hh_l0" in rnn._parameters
    program = jaxlstm.from_module(module, (x,))
    require_equal(program, module, torch.randn(5, 4, 3))
    assert rnn.weight_hh_l0 is rnn.weight_raw


def test_detached_parameters_and_results_stay_constants() -> None:
    def forward(self: Any, x: torch.Tensor) -> Any:
        return x * self.weight + x * x * self.frozen[0], x * self.own[0], self.frozen[0], {"kind": "text"}

    module: Any = module_of(forward, weight=nn.Parameter(torch.rand(3)), other=nn.Parameter(torch.rand(3)))
    module.frozen, module.own = [module.weight.detach()], [module.other]
    module.register_buffer("shadow", module.other.detach())
    program = jaxlstm.from_module(module, (torch.rand(2, 3),))
    x = torch.rand(2, 3)
    gradients = jax.grad(lambda params: sum(part.sum() for part in program(params, x.numpy())[:2]))(
        program.params
    )
    torch.stack([part.sum() for part in module(x)[:2]]).sum().backward()
    for name, parameter in module.named_parameters():
        np.testing.assert_allclose(gradients[name], parameter.grad, rtol=1e-6)
    assert program(program.params, x.numpy())[3] == {"kind": "text"}


def add_positions(self: Any, x: torch.Tensor, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A parameter fixes the time axis, a branch bounds the batch, and a squeeze the height."""
    x = x + self.positions
    if x.shape[0] > 4:
        x = x * 2
    columns = nn.functional.max_pool2d(image, 2)
    return x, columns.squeeze(1) if columns.shape[1] == 1 else columns


@pytest.mark.parametrize("saved", [False, True])
def test_lines_of_the_model(saved: bool, tmp_path: Path) -> None:
    module = module_of(add_positions, positions=nn.Parameter(torch.randn(7, 4)))
    program = jaxlstm.from_module(module, (torch.randn(6, 7, 4), torch.randn(6, 3, 10)))
    if saved:
        program.save(tmp_path / "model.pt2")
        torch.export.load(tmp_path / "model.pt2")
        program = jaxlstm.load_program(tmp_path / "model.pt2")
    x, image = program.inputs
    assert x.type is not None
    assert x.type.shape[1:] == (7, 4)
    assert re.search(r"test_from_module.py:\d+: x = x \+ self.positions", x.fixed[1])
    listed = str(program)
    assert f"axis 1 of x is fixed: {x.fixed[1]}" in listed
    assert "2 to 3 (the condition" in listed
    assert ": return x, columns.squeeze(1) if columns.shape[1] == 1 else columns" in listed
    images = np.ones((6, 3, 10), np.float32)
    with pytest.raises(
        ProgramError, match=r"must have size 7.*got 8.*Reason: .*:\d+: x = x \+ self.positions"
    ):
        program.bind((np.ones((6, 8, 4), np.float32), images), {})
    with pytest.raises(ProgramError, match=r"from 2 to 3, got 4 because of .*:\d+: return x, columns"):
        program.bind((np.ones((6, 7, 4), np.float32), np.ones((6, 4, 10), np.float32)), {})
    with pytest.raises(ProgramError, match=r"at least 5, got 3"):
        program.bind((np.ones((3, 7, 4), np.float32), images[:3]), {})
    assert image.fixed == {}


def test_one_tensor_for_two_arguments() -> None:
    """The export gets copies, so that the arguments stay apart; an argument without effect is a warning."""
    module, x = module_of(lambda _, x, h, unused: x * h), torch.rand(3, 4)
    with pytest.warns(UserWarning, match="input unused has no effect: no node uses it$"):
        program = jaxlstm.from_module(module, (x, x, x))
    require_equal(program, module, torch.rand(3, 4), torch.rand(3, 4), torch.rand(3, 4))


def test_complex_numbers(tmp_path: Path) -> None:
    module = module_of(
        lambda _, x: (torch.exp(x * 1j), x + (1 - 2j), torch.where(x > 0, x * complex("inf"), 0.5j))
    )
    jaxlstm.from_module(module, (torch.randn(3, 4),)).save(tmp_path / "phases.pt2")
    program, x = jaxlstm.load_program(tmp_path / "phases.pt2"), torch.randn(2, 5)
    require_equal(program, module, x)
    assert_close(written_program(program).model(jnp.asarray(x)), module(x), 0)


class Surrogate(torch.autograd.Function):
    """A step with the gradient of another function, as in spiking networks."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return (x > 0).float()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:  # pyright: ignore
        return 2 * gradients[0]


def test_a_gradient_of_the_users_own_is_named() -> None:
    module = module_of(lambda self, x: Surrogate.apply(x) * x)
    with pytest.warns(UserWarning, match="gradients through Surrogate come from its forward"):
        jaxlstm.from_module(module, (torch.randn(3),))


MISSING = object()


class Identities(torch.nn.Module):
    """Its code tells objects apart by identity, and finds a part of it by a closure."""

    def __init__(self, closes: bool) -> None:
        super().__init__()
        self.linear = linear = torch.nn.Linear(3, 3)
        self.sentinels: list[Any] = [MISSING, EXAMPLE]
        self.apply_linear = (lambda x: linear(x)) if closes else linear.forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        same = self.sentinels[0] is MISSING and self.sentinels[1] is EXAMPLE
        return self.apply_linear(x) * 2 if same else x


EXAMPLE = torch.ones(2, 3)


@pytest.mark.parametrize("closes", [False, True])
def test_identities_and_parameters_in_the_copy_that_is_exported(closes: bool) -> None:
    module = Identities(closes)
    program = jaxlstm.from_module(module, (EXAMPLE,))
    assert set(program.params) == {"linear.weight", "linear.bias"}
    require_results(program, module, EXAMPLE, jit=False, rtol=1e-6)
