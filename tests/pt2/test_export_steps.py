"""from_module in steps: axes and sizes that torch.export refuses are fixed, and named in a warning."""

import copy
import pickle
import re
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import jaxlstm
from jaxlstm.programs.errors import ProgramError
from jaxlstm_converters.pt2 import export_steps
from testing.gradients import require_equal, require_results
from testing.modules import module_of


def test_an_axis_says_why_it_is_fixed() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return x * torch.arange(5)[:, None]

    program = jaxlstm.from_module(module_of(forward), (torch.ones(2, 5, 1),))
    assert re.search(r"axis 1 of x is fixed: .* == 5' \(test_export_steps.py:\d+: return x", str(program))
    assert "axis 2 of x is fixed: torch.export fixes an axis that has the size 0 or 1" in str(program)


def test_a_slice_fixes_no_axis() -> None:
    module = module_of(lambda _, x, n: x[:, : int(n)] * torch.arange(5)[:, None])
    program = jaxlstm.from_module(module, (torch.ones(2, 5, 1), torch.tensor(5)))
    assert "s27: 5 to any size" in str(program)
    require_results(program, module, torch.randn(2, 7, 1), torch.tensor(-2), jit=False)


def test_fewer_axes_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """The axis that torch's error is about is fixed, and the others stay free."""
    original = ShapeEnv._maybe_guard_rel

    def fails(self: Any, expr: Any) -> None:
        if "3*" in str(expr):
            raise NotImplementedError("The inequality cannot be solved")
        original(self, expr)

    monkeypatch.setattr(ShapeEnv, "_maybe_guard_rel", fails)
    model = module_of(lambda self, x, y: x + y if x.shape[1] * 3 > 7 else x)
    message = r"on all axes \(The inequality cannot be solved\)\. Fixed: axis 1 of x\. A call"
    with pytest.warns(UserWarning, match=message):
        program = jaxlstm.from_module(model, (torch.ones(4, 5, 3), torch.ones(3)))
    assert program(program.params, np.ones((7, 5, 2), np.float32), np.ones(2, np.float32)).shape == (7, 5, 2)


def test_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that fails on the example raises its own error; else the first of torch's is raised."""
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        jaxlstm.from_module(module_of(lambda self, x: x @ x), (torch.ones(4, 3),))

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise OSError("nothing works")

    for name in ("export", "draft_export"):
        monkeypatch.setattr(torch.export, name, refuse)
    monkeypatch.setattr(export_steps, "make_fx", refuse)
    with pytest.raises(OSError, match="nothing works") as caught:
        jaxlstm.from_module(module_of(lambda self, x: x), (torch.ones(4, 3),))
    assert [note.split(":")[0] for note in caught.value.__notes__] == [
        *("with_fewer_axes", "as_draft", "with_values")
    ]


@dataclass
class Output:
    total: Tensor
    parts: list[Any]


def test_results_of_other_types_are_dicts_and_tuples() -> None:
    pair = namedtuple("Pair", "first second")

    def forward(self: Any, x: Tensor) -> Any:
        return Output(x.sum(0), [x.max(1), OrderedDict(x=x, none=None), pair(x, [None])])

    program = jaxlstm.from_module(module_of(forward), (torch.ones(4, 3),))
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    result = program(program.params, x)
    np.testing.assert_array_equal(result["total"], x.sum(0))
    (values, indices), others, both = result["parts"]
    np.testing.assert_array_equal(values, x.max(1))
    np.testing.assert_array_equal(indices, x.argmax(1))
    assert others.keys() == {"x", "none"}
    np.testing.assert_array_equal(both.first, x)
    assert both.second == [None]


def test_names_of_arguments() -> None:
    """Arguments by keyword, with capital letters."""

    def forward(self: Any, X: Tensor, *args: Tensor, **kwargs: Tensor) -> Tensor:
        total = X * kwargs["Mask"] + args[0]
        return total if X.shape[0] % 2 == 0 else total * 0

    program = jaxlstm.from_module(module_of(forward), (torch.ones(4, 3),) * 2, {"Mask": torch.ones(4, 3)})
    x = np.ones((6, 2), np.float32)
    np.testing.assert_array_equal(program({}, x, x, Mask=2 * x), 3 * x)
    with pytest.raises(ProgramError, match=r"not hold.*'\(x.shape\[0\] % 2\) == 0'.*X.shape\[0\] % 2"):
        program.bind((x[:5], x[:5]), {"Mask": x[:5]})


def by_type(self: Any, x: Tensor) -> Tensor:
    size = x.shape[1]
    is_int = isinstance(size, int) and issubclass(bool, int) and type(x.ndim) in (int, float)
    return x[:, :size] if is_int else x * 0


SIZES: dict[str, Callable[..., Any]] = {
    "int": lambda self, x: x[:, : int(0.7 * x.shape[1])] + int("3"),
    "int of ceil": lambda self, x: x.new_zeros(int(np.ceil(x.shape[1] / 3))),
    "round": lambda self, x: x.new_zeros(round(x.shape[1] / 2), round(0.7 * x.shape[1])),
    "round to digits": lambda self, x: x * round(x.shape[1] / 3, 2),
    "min and max": lambda self, x: x.new_zeros(min(x.shape[1], 12), max([x.shape[0], 5]), max(2, 0.5)),
    "max_pool1d": lambda self, x: nn.functional.max_pool1d(x, 3, 2, 1),
    "max_pool1d with dilation": lambda self, x: nn.functional.max_pool1d(x, 3, dilation=2, ceil_mode=True),
    "squeeze of a slice": lambda self, x: torch.stack([x[t : t + 1].squeeze(0) for t in range(3)]),
    "a type": by_type,
    "a dtype": lambda self, x: x[:, : int(x.shape[1])] + np.ones(1, float)[0],
}


@pytest.mark.parametrize("name", SIZES)
def test_numbers_of_sizes_leave_axes_free(name: str) -> None:
    names = dict(globals())
    model = module_of(SIZES[name])
    program = jaxlstm.from_module(model, (torch.ones(4, 10),))
    if name != "round to digits":  # which fixes the axis
        program.at_sizes = None
    assert globals() == names, "the functions of the file are not restored"
    for shape in ((4, 10), (3, 13), (7, 9), (6, 11)):
        require_results(program, model, torch.randn(shape), jit=False, rtol=1e-6)


def test_a_file_that_compares_a_type_by_identity_keeps_pythons_int(tmp_path: Path) -> None:
    """Another class in its place would take the other branch."""
    path = tmp_path / "net.py"
    names: dict[str, Any] = {"nn": nn}
    path.write_text(
        "class Net(nn.Module):\n"
        "    def forward(self, x):\n"
        # The words in one line would count for this file too.
        "        return x[: len(x), : int(0.7 * x.shape[1])] if type(3) is "
        "int else x\n"
    )
    exec(compile(path.read_text(), path, "exec"), names)
    program = jaxlstm.from_module(names["Net"](), (torch.ones(4, 10),))
    assert program({}, np.ones((3, 11), np.float32)).shape == (3, 7)
    with pytest.raises(ProgramError, match=r"from 10 to 11, got 13 .*net.py:3"):
        program.bind((np.ones((3, 13), np.float32),), {})


def test_other_sizes_are_exported_when_they_occur(tmp_path: Path) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        steps = [self.first(step) * self.count for step in x.unbind(1)]
        return torch.stack(steps[::-1] if x.shape[1] % 2 else steps, 1)

    reference = module_of(forward, first=nn.Linear(3, 3), count=torch.tensor(2))
    model: Any = copy.deepcopy(reference)
    program = jaxlstm.from_module(model, (torch.randn(2, 4, 3),))
    model.half().count.fill_(5)  # The program has its own copy.
    for shape in ((3, 4, 3), (3, 7, 3), (1, 7, 3), (3, 6, 3)):
        require_equal(program, reference, torch.randn(shape, requires_grad=True), atol=1e-6)
    x, buffers = np.ones((2, 5, 3), np.float32), {"count": np.array(6, np.int32)}
    expected = 3 * program(program.params, x)
    np.testing.assert_allclose(program(program.params, x, buffers=buffers), expected, rtol=1e-6)
    zeros = jax.tree.map(jnp.zeros_like, program.params)
    assert not np.any(program.with_options(guards=False)(zeros, x))
    with pytest.raises(ProgramError, match=r"size 4.*x.unbind\(1\).* at these sizes failed: RuntimeError: "):
        program(program.params, np.ones((3, 7, 5), np.float32))
    assert pickle.loads(pickle.dumps(program.at_sizes)) is None
    program.save(tmp_path / "loop.pt2")
    fixed = jaxlstm.from_module(reference, (torch.randn(2, 4, 3),), dynamic_shapes=({0: Dim.AUTO},))
    for other in (jaxlstm.load_program(tmp_path / "loop.pt2"), fixed):
        with pytest.raises(ProgramError, match="must have size 4"):
            other(other.params, np.ones((2, 9, 3), np.float32))


def test_other_lists_and_constants_are_exported() -> None:
    def forward(self: Any, x: Tensor, lengths: list[int], states: list[Tensor], scale: int = 2) -> Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)  # type: ignore[arg-type]
        y, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        return y * scale + sum(states)

    module = module_of(forward, lstm=nn.LSTM(3, 3, batch_first=True)).eval()
    states = torch.randn(4, 3).unbind()
    program = jaxlstm.from_module(module, (torch.randn(2, 5, 3), [5, 3], [*states[:2]]), {"scale": 2})
    for rows, lengths, count, scale in ((2, [4, 5], 2, 2), (3, [4, 6, 1], 4, 2), (2, [5, 3], 1, 7)):
        x, given = torch.randn(rows, max(lengths), 3), [*states[:count]]
        expected = module(x, lengths, given, scale=scale).detach().numpy()

        def call(x: Any, given: Any, lengths: Any = lengths, scale: int = scale) -> Any:
            return program(program.params, x, lengths, given, scale=scale)

        for run in (call, jax.jit(call)):
            actual = run(x.numpy(), [state.numpy() for state in given])
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    x = np.zeros((2, 5, 3), np.float32)
    for arguments in ((x, (5, 3), [x[0, 0]] * 2), (x, [5, 3])):
        with pytest.raises(ProgramError, match="input-structure"):
            program(program.params, *arguments, scale=2)
    with pytest.raises(ProgramError, match="list of length 2, got list of length 3"):  # jit hides the lengths
        jax.jit(program)(program.params, np.zeros((3, 5, 3), np.float32), [5, 3, 5], [x[0, 0]] * 2, scale=2)


def test_functions_that_torch_does_not_take() -> None:
    """torch takes ``int`` as a dtype."""
    model = module_of(lambda self, x: x.sum(0) + torch.zeros(int(x.shape[1]), dtype=int))  # type: ignore[call-overload]
    program = jaxlstm.from_module(model, (torch.ones(4, 10),))
    with pytest.raises(ProgramError, match=r"must have size 10.*test_export_steps.py:\d+: model = module_of"):
        program.bind((np.ones((4, 11), np.float32),), {})


def test_errors_about_ranges_and_equal_axes_name_the_line() -> None:
    def forward(self: Any, x: Tensor, y: Tensor) -> Tensor:
        padded = nn.functional.pad(x, (6, 6), mode="reflect")
        return padded[:, 12:] * y

    program = jaxlstm.from_module(module_of(forward), (torch.ones(4, 9), torch.ones(4, 9)))
    with pytest.raises(ProgramError, match=r"at least 7, got 5 because of .*\d+: padded = nn.func"):
        program(program.params, *[np.ones((4, 5), np.float32)] * 2)
    with pytest.raises(ProgramError, match=r"of input x, 9, got 8 because of .*\d+: return padded\["):
        program(program.params, np.ones((4, 9), np.float32), np.ones((4, 8), np.float32))
    assert "7 to any size (the condition" in str(program)


def test_sizes_are_exported_while_another_call_looks_for_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    program = jaxlstm.from_module(module_of(lambda _, x: x * 2 if len(x) > 3 else x), (torch.ones(2, 3),))
    takes = jaxlstm.Program.takes

    def meanwhile(*args: Any) -> bool:
        monkeypatch.setattr(jaxlstm.Program, "takes", takes)
        program(program.params, np.ones((5, 3), np.float32))
        return takes(*args)

    program(program.params, np.ones((4, 3), np.float32))
    monkeypatch.setattr(jaxlstm.Program, "takes", meanwhile)
    assert program(program.params, np.ones((6, 3), np.float32)).sum() == 36
