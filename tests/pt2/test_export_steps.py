"""from_module in steps: what torch.export refuses is fixed, checked at each call, and named in a warning."""

import pickle
import re
import warnings
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
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode, ShapeEnv

import jaxlstm
from jaxlstm.programs.errors import ProgramError
from jaxlstm_converters.pt2 import export_steps
from testing.modules import module_of


def model_of(forward: Callable[..., Any]) -> Any:
    """Return a module with an LSTM, tied linear layers and a buffer."""
    torch.manual_seed(0)
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    parts = {"first": first, "second": second, "count": torch.tensor(2)}
    return module_of(forward, lstm=nn.LSTM(3, 3), **parts)


def branch(self: Any, x: Tensor) -> Tensor:
    return x * 3 if (x <= 0).any() or not (x > -9).all() else x * 2


def steps(self: Any, x: Tensor, n: Tensor) -> Any:
    y = self.lstm(x)[0]
    for step in torch.arange(n.item()).tolist():
        y = self.second(self.first(y))[step:] + self.count
    return {"y": y, "n": int(n), "rows": x.shape[0]}


def from_module(model: nn.Module, args: tuple[Any, ...], message: str) -> jaxlstm.Program:
    with pytest.warns(UserWarning, match=message):
        return jaxlstm.from_module(model, args)


def test_a_branch_on_values_is_that_of_the_example() -> None:
    model = model_of(branch)
    message = r"conditions on values.*at test_export_steps.py:\d+: return x \* \d if"
    program = from_module(model, (torch.ones(4, 3),), message)
    x = np.ones((6, 2), np.float32)
    np.testing.assert_array_equal(program(program.params, x), 2 * x)
    np.testing.assert_array_equal(jax.jit(program)(program.params, x), 2 * x)
    np.testing.assert_array_equal(program(program.params, -x), model(-torch.from_numpy(x)))
    np.testing.assert_array_equal(jax.grad(lambda x: program(program.params, x).sum())(-2 * x), 3 * x)
    # Under jit the values are unknown, and another branch would give other numbers and gradients.
    assert np.isnan(jax.jit(program)(program.params, -x)).all()
    assert np.isnan(jax.jit(jax.grad(lambda x: program(program.params, x).sum()))(-x)).all()
    np.testing.assert_array_equal(jax.jit(jax.grad(lambda x: program(program.params, x).sum()))(x), 2 * x)


def test_an_assertion_names_its_line_and_value(tmp_path: Path) -> None:
    model = model_of(lambda self, x, n: [x * k for k in range(int(n))])
    from_module(model, (torch.ones(2, 3), torch.tensor(3)), "u0 is 3").save(tmp_path / "a.pt2")
    program = jaxlstm.load_program(tmp_path / "a.pt2")
    with pytest.raises(ProgramError, match=r"module: .*in range\(int\(n\)\).* u0 <= 3 .*; got 4"):
        program(program.params, np.ones((2, 3), np.float32), np.int64(4))


def test_an_axis_says_why_it_is_fixed() -> None:
    def forward(self: Any, x: Tensor, n: Tensor) -> Tensor:
        return x[:, : int(n)] * torch.arange(5)[:, None]

    program = jaxlstm.from_module(model_of(forward), (torch.ones(2, 5, 1), torch.tensor(5)))
    assert re.search(r"axis 1 of x is fixed: .* == 5' \(test_export_steps.py:\d+: return x", str(program))
    assert "axis 2 of x is fixed: torch.export fixes an axis that has the size 0 or 1" in str(program)


class Counts(nn.Module):
    """Results by ``out``, and values that an overridden ``__call__`` reads, as in torch_geometric."""

    def __call__(self, index: Tensor, groups: int = 0) -> Any:
        return super().__call__(index, groups or int(index.max()) + 1)

    def forward(self, index: Tensor, groups: int = 0) -> Tensor:
        ends = index.new_zeros(groups + 1)
        counts = index.new_zeros(groups).scatter_add_(0, index, torch.ones_like(index))
        torch.cumsum(counts, 0, out=ends[1:])
        return ends[index] * 2 if bool((counts > 1).all()) else ends


def test_values_that_an_overridden_call_reads() -> None:
    program = from_module(Counts(), (torch.tensor([0, 0, 1, 1]),), "conditions on values")
    for index in (torch.tensor([0, 0, 1, 1]), torch.tensor([0, 2, 2, 1, 1, 1])):
        np.testing.assert_array_equal(program(program.params, index.numpy()), Counts()(index))


def test_integers_that_values_fix() -> None:
    model = model_of(lambda self, x: ([int(n) for n in x.argmax(1)], x.argmax(0) if x.sum() > 0 else x))
    program = from_module(model, (torch.eye(2),), "fixed parts of the model")
    assert program(program.params, np.eye(2, dtype=np.float32))[0] == [0, 1]
    for x, expected in ((np.eye(2), [0, 1]), (-np.eye(2), [np.iinfo(np.int32).min] * 2)):
        fixed, chosen = jax.jit(program)(program.params, x.astype(np.float32))
        assert list(map(int, fixed)) == list(map(int, chosen)) == expected


def test_unsigned_integers_that_values_fix() -> None:
    model = model_of(lambda self, x: (x if x.sum() > 0 else x + 100).to(torch.uint8))
    program = from_module(model, (torch.ones(2),), "fixed parts of the model")
    assert (jax.jit(program)(program.params, -np.ones(2, np.float32)) == 255).all()


def test_booleans_cannot_show_that_a_value_differs() -> None:
    model, x = model_of(lambda self, x: x > 0 if x.sum() > 0 else x < 0), np.eye(2, dtype=np.float32)
    program = from_module(model, (torch.eye(2),), "fixed parts of the model")
    np.testing.assert_array_equal(program(program.params, -x), x > 0)
    with pytest.raises(ProgramError, match="all results are booleans"):
        jax.jit(program)(program.params, x)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("truth", [torch.equal, torch.allclose, lambda x, y: torch.is_nonzero((x - y).sum())])
def test_functions_that_return_a_truth(truth: Callable[[Tensor, Tensor], bool]) -> None:
    model = model_of(lambda self, x, y: x * 2 if truth(x, y) else self.first(y))
    model.first = torch.nn.utils.weight_norm(nn.Linear(3, 3))  # its weight is computed
    x, y = torch.ones(2, 3), torch.zeros(2, 3)
    program = from_module(model, (x, x), "fixed parts of the model .* at test_export_steps")
    for args in ((x, x), (x, y)):
        arrays, expected = [arg.numpy() for arg in args], model(*args).detach()
        np.testing.assert_allclose(program(program.params, *arrays), expected, rtol=1e-6)
        jitted = jax.jit(program)(program.params, *arrays)
        np.testing.assert_array_equal(jitted, expected if args[1] is x else np.full((2, 3), np.nan))


def test_an_argument_that_is_a_number() -> None:
    program = jaxlstm.from_module(model_of(lambda self, x, n: x * n), (torch.ones(4, 3), 3))
    x = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(jax.jit(program)(program.params, x, 3), 3 * x)
    assert np.isnan(jax.jit(program)(program.params, x, 4)).all()
    with pytest.raises(ProgramError, match="was fixed to 3 by the export, got 4"):
        program(program.params, x, 4)


def windows(self: Any, x: Tensor) -> Tensor:
    place, sums = 0, []
    while place < x.shape[1]:
        window = torch.arange(place, min(x.shape[1], place + 2))
        sums.append(x[:, window].sum(1))
        place = int(window[-1]) + 1
    return torch.stack(sums)


def reversed_rows(self: Any, x: Tensor) -> Tensor:
    result = torch.zeros(x.shape)
    for row, length in enumerate(torch.full(x.shape[:1], x.shape[1])):
        result[row, :length] = x[row, :length].flip(0)
    return result


@pytest.mark.filterwarnings("ignore:from_module fixed parts")
@pytest.mark.parametrize("forward", [windows, reversed_rows])
def test_values_of_constants_are_known(forward: Callable[..., Any]) -> None:
    program = jaxlstm.from_module(model := model_of(forward), (torch.randn(4, 3),))
    for x in map(torch.randn, [(4, 3), (2, 3), (4, 5)]):
        results = jax.jit(program)(program.params, x.numpy())
        np.testing.assert_allclose(results, model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:where received a uint8 condition")
@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize(
    "longest",
    [
        *("lengths.max()", "int(lengths.max())", "max(lengths)", "max(lengths.tolist())", "int(lengths[0])"),
        "max(list(map(int, lengths)))",
    ],
)
def test_the_largest_length_is_the_size_of_an_axis(longest: str, packs: bool) -> None:
    """Under jit the length is unknown, and the size is not."""

    def masked(self: Any, x: Tensor, lengths: Tensor) -> Tensor:
        if packs:
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
            x, lengths = nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)
        mask = torch.arange(eval(longest)) < lengths[:, None]
        return torch.where(mask.byte()[..., None], x, 1.0) * mask.byte().all()

    program = jaxlstm.from_module(model := model_of(masked), (torch.randn(2, 5, 3), torch.tensor([5, 2])))
    for x, lengths in ((torch.randn(3, 7, 3), [7, 7, 7]), (torch.randn(2, 4, 3), [4, 1])):
        results = jax.jit(program)(program.params, x.numpy(), np.array(lengths))
        np.testing.assert_array_equal(results, model(x, torch.tensor(lengths)))
    assert np.isnan(jax.jit(program)(program.params, x.numpy(), np.array([3, 1]))).all()


def test_a_constant_that_changes_is_not_known() -> None:
    def change(self: Any, x: Tensor, shared: bool) -> Tensor:
        steps = torch.arange(3)
        (steps.view_as(x[0]) if shared else steps)[0] = x.shape[0]
        return x * steps.tolist()[0]

    model, x = model_of(change), torch.randn(4, 3)
    program = jaxlstm.from_module(model, (x, False))
    np.testing.assert_array_equal(program(program.params, x.numpy(), False), 4 * x)
    program = jaxlstm.from_module(model, (x, True))
    with pytest.raises(ProgramError, match="the value that the export fixed"):
        program(program.params, x.numpy(), True)


def test_values_that_are_read_are_those_of_the_example(tmp_path: Path) -> None:
    """Sizes are fixed then, and parameters keep their names and ties."""
    model, x, n = model_of(steps), torch.randn(4, 2, 3), torch.tensor(3)
    message = r"the sizes of all inputs; a value read as 3 at test_export_steps.py:\d+: for step in"
    made = from_module(model, (x, n), message)
    made.save(tmp_path / "a.pt2")
    program = jaxlstm.load_program(tmp_path / "a.pt2")
    assert program.params.keys() == {*dict(model.named_parameters())}
    assert program.tied == {"second.weight": "first.weight"}
    calls = {(call.path, call.line) for node in program.graph.nodes for call in node.calls}
    assert {path for path, _ in calls} == {"", "lstm", "first", "second"}
    assert ("", "y = self.second(self.first(y))[step:] + self.count") in calls
    for run in (program, jax.jit(program)):
        result = run(program.params, x.numpy(), n.numpy())
        assert (int(result["n"]), int(result["rows"])) == (3, 4)
        np.testing.assert_allclose(result["y"], model(x, n)["y"].detach().numpy(), atol=1e-5)
    with pytest.raises(ProgramError, match="the value that the export fixed to 3 at test_export_steps"):
        program(program.params, x.numpy(), np.array(2))
    with pytest.raises(ProgramError, match=r"must have size 4.*Reason: torch.export failed") as caught:
        jax.jit(made)(program.params, x[:3].numpy(), n.numpy())
    assert caught.value.code == "input-shape"


def test_a_size_in_a_buffer() -> None:
    """It is known, and all axes stay free."""
    model = model_of(lambda self, x: x[:, : self.count.item()] * int(self.count))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        program = jaxlstm.from_module(model, (torch.ones(4, 3),))
    x = np.ones((2, 5), np.float32)
    np.testing.assert_array_equal(program(program.params, x), 2 * x[:, :2])
    with pytest.raises(ProgramError, match=r"the value that the export fixed to 2 at test_export.*; got 3"):
        program(program.params, x, buffers={"count": np.array(3, np.int32)})


@pytest.mark.filterwarnings("ignore:.*fixed parts of the model")
@pytest.mark.parametrize(
    "count",
    [
        lambda mask: len(mask.nonzero().tolist()),
        lambda mask: sum(1 for _ in mask.nonzero()),
        lambda mask: 2 if mask.nonzero().shape[0] == 2 else 5,
        lambda mask: mask.nonzero().shape[0] * torch.equal(mask, mask),
    ],
)
def test_a_number_of_selected_elements_that_is_fixed(count: Any) -> None:
    """Another number exports again, or gives NaN under jit, even if no result has selected elements."""
    model = model_of(lambda self, x, mask: x * count(mask))
    x, masks = torch.ones(3), [torch.tensor([True, True, False]), torch.tensor([True, False, False])]
    program = jaxlstm.from_module(model, (x, masks[0]))
    for mask in masks:
        actual = jax.jit(program)(program.params, x.numpy(), mask.numpy())
        expected = model(x, mask) if mask is masks[0] else np.full(3, np.nan)
        np.testing.assert_array_equal(actual, expected)
        np.testing.assert_array_equal(program(program.params, x.numpy(), mask.numpy()), model(x, mask))


def test_a_result_without_tensors() -> None:
    model = model_of(lambda self, x: [2] if torch.equal(x, x) else [3])
    program = from_module(model, (torch.ones(3),), "a value read as True at test_export_steps")
    assert program(program.params, np.ones(3, np.float32)) == [2]


def test_a_condition_on_the_number_of_selected_elements() -> None:
    """The program asserts that the selection is not empty, and fixes no size."""
    model = model_of(lambda self, x: self.first(rows) if len(rows := x[x[:, 0] > 0]) else x * 0)
    program = from_module(model, (torch.ones(4, 3),), r"Ne\(u0, 0\) is True at test_export_steps")
    x = torch.tensor([[1.0, 2, 3], [-1, 2, 3], [4, 5, 6]])
    np.testing.assert_allclose(jax.jit(program)(program.params, x.numpy())[:2], model(x).detach(), rtol=1e-5)
    np.testing.assert_array_equal(program(program.params, -abs(x.numpy())), model(-abs(x)))
    assert np.isnan(jax.jit(program)(program.params, -abs(x.numpy()))).all()


def traced(x: Tensor, n: Tensor) -> Tensor:
    """Return the sum of some rows, in a way that only a trace with values takes."""
    return torch.stack([x[row] for row in torch.arange(n.item()).tolist()]).sum(0)


CONSTANTS: dict[str, Callable[..., Any]] = {
    "data": lambda self, x, n: traced(x.data * self.first.weight.data[0], n),
    "literals": lambda self, x, n: traced(x, n) * torch.tensor([1.0, 2.0, 3.0]) + x.new_tensor([2.0]),
    "an attribute": lambda self, x, n: traced(x, n) * self.attribute,
    "an array": lambda self, x, n: traced(x, n) * torch.from_numpy(np.ones(3, np.float32)),
    "an index": lambda self, x, n: traced(x, n) * x[n - 1],
    "a size": lambda self, x, n: traced(x, n) * torch.ones(n + 1, dtype=torch.bool)[-1],
    "an array of an input": lambda self, x, n: traced(x, n) * torch.from_numpy(x.detach().numpy() * 2)[0],
}
INPUTS: dict[str, Callable[..., Any]] = {
    "dlpack": lambda self, x, n: traced(x, n) + torch.from_dlpack(x.detach())[0],
    "a parameter": lambda self, x, n: traced(x, n) + nn.Parameter(x.detach())[0],
}


@pytest.mark.filterwarnings("ignore:from_module fixed parts")
def test_constants_of_a_trace() -> None:
    model = model_of(lambda *args: {name: function(*args) for name, function in CONSTANTS.items()})
    model.attribute = torch.tensor([3.0, 2.0, 1.0])
    program = jaxlstm.from_module(model, (torch.randn(4, 3), torch.tensor(2)))
    x, n = torch.randn(4, 3), torch.tensor(2)
    results = program(program.params, x.numpy(), n.numpy())
    for name, expected in model(x, n).items():
        np.testing.assert_allclose(results[name], expected.detach(), rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", INPUTS)
def test_an_input_does_not_become_a_constant(name: str) -> None:
    with pytest.raises(GuardOnDataDependentSymNode) as caught:
        jaxlstm.from_module(model_of(INPUTS[name]), (torch.randn(4, 3), torch.tensor(2)))
    assert "does not know where the tensor" in caught.value.__notes__[-1]


def test_fewer_axes_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """The axis that torch's error is about is fixed, and the others stay free."""
    original = ShapeEnv._maybe_guard_rel

    def fails(self: Any, expr: Any) -> None:
        if "3*" in str(expr):
            raise NotImplementedError("The inequality cannot be solved")
        original(self, expr)

    monkeypatch.setattr(ShapeEnv, "_maybe_guard_rel", fails)
    model = model_of(lambda self, x, y: x + y if x.shape[1] * 3 > 7 else x)
    message = r"on all axes \(The inequality cannot be solved\)\. Fixed: axis 1 of x\. A call"
    program = from_module(model, (torch.ones(4, 5, 3), torch.ones(3)), message)
    assert program(program.params, np.ones((7, 5, 2), np.float32), np.ones(2, np.float32)).shape == (7, 5, 2)


def test_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that fails on the example raises its own error; else the first of torch's is raised."""
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        jaxlstm.from_module(model_of(lambda self, x: x @ x), (torch.ones(4, 3),))

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise OSError("nothing works")

    for name in ("export", "draft_export"):
        monkeypatch.setattr(torch.export, name, refuse)
    monkeypatch.setattr(export_steps, "make_fx", refuse)
    with pytest.raises(OSError, match="nothing works") as caught:
        jaxlstm.from_module(model_of(branch), (torch.ones(4, 3),))
    assert [note.split(":")[0] for note in caught.value.__notes__] == [
        *("with_fewer_axes", "as_draft", "with_values")
    ]


@dataclass
class Output:
    """A result."""

    total: Tensor
    parts: list[Any]


def test_results_of_other_types_are_dicts_and_tuples() -> None:
    pair = namedtuple("Pair", "first second")

    def forward(self: Any, x: Tensor) -> Any:
        return Output(x.sum(0), [x.max(1), OrderedDict(x=x, none=None), pair(x, [None])])

    program = jaxlstm.from_module(model_of(forward), (torch.ones(4, 3),))
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    result = program(program.params, x)
    np.testing.assert_array_equal(result["total"], x.sum(0))
    (values, indices), others, both = result["parts"]
    np.testing.assert_array_equal(values, x.max(1))
    np.testing.assert_array_equal(indices, x.argmax(1))
    assert others.keys() == {"x", "none"}
    np.testing.assert_array_equal(both.first, x)
    assert both.second == [None]


class Keywords(nn.Module):
    """Arguments by keyword, with capital letters."""

    def forward(self, X: Tensor, *args: Tensor, **kwargs: Tensor) -> Tensor:
        total = X * kwargs["Mask"] + args[0]
        return total if X.shape[0] % 2 == 0 else total * 0


def test_names_of_arguments() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        program = jaxlstm.from_module(Keywords(), (torch.ones(4, 3),) * 2, {"Mask": torch.ones(4, 3)})
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
    "a type": by_type,
    "a dtype": lambda self, x: x[:, : int(x.shape[1])] + np.ones(1, float)[0],
}


@pytest.mark.parametrize("name", SIZES)
def test_numbers_of_sizes_leave_axes_free(name: str) -> None:
    names = dict(globals())
    model = model_of(SIZES[name])
    program = jaxlstm.from_module(model, (torch.ones(4, 10),))
    assert globals() == names, "the functions of the file are not restored"
    for shape in ((4, 10), (3, 13), (7, 9), (6, 11)):
        x = torch.randn(shape)
        ours, theirs = program(program.params, x.numpy()), model(x)
        assert jax.tree.map(np.shape, ours) == jax.tree.map(lambda leaf: tuple(leaf.shape), theirs)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, theirs)


def test_a_file_that_compares_a_type_by_identity_keeps_pythons_int(tmp_path: Path) -> None:
    """Another class in its place would take the other branch."""
    path = tmp_path / "net.py"
    names: dict[str, Any] = {"nn": nn}
    path.write_text(
        "class Net(nn.Module):\n"
        "    def forward(self, x):\n"
        # The words in one line would count for this file too.
        "        return x[:, : int(0.7 * x.shape[1])] if type(3) is "
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

    model, reference = model_of(forward), model_of(forward)
    program = jaxlstm.from_module(model, (torch.randn(2, 4, 3),))
    model.half().count.fill_(5)  # The program has its own copy.
    run = jax.jit(program.__call__)
    for shape in ((3, 4, 3), (3, 7, 3), (1, 7, 3), (3, 6, 3)):
        x = torch.randn(shape, requires_grad=True)
        (expected := reference(x)).sum().backward()
        ours, pull_back = jax.vjp(lambda x: run(program.params, x), x.detach().numpy())
        np.testing.assert_allclose(ours, expected.detach(), atol=1e-6)
        assert x.grad is not None
        np.testing.assert_allclose(pull_back(jnp.ones_like(ours))[0], x.grad, atol=1e-6)
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
            other(other.params, x)


def test_functions_that_torch_does_not_take() -> None:
    """torch takes ``int`` as a dtype."""
    model = model_of(lambda self, x: x.sum(0) + torch.zeros(int(x.shape[1]), dtype=int))  # type: ignore[call-overload]
    program = jaxlstm.from_module(model, (torch.ones(4, 10),))
    with pytest.raises(ProgramError, match=r"must have size 10.*test_export_steps.py:\d+: model = model_of"):
        program.bind((np.ones((4, 11), np.float32),), {})


def test_errors_about_ranges_and_equal_axes_name_the_line() -> None:
    def forward(self: Any, x: Tensor, y: Tensor) -> Tensor:
        padded = nn.functional.pad(x, (6, 6), mode="reflect")
        return padded[:, 12:] * y

    program = jaxlstm.from_module(model_of(forward), (torch.ones(4, 9), torch.ones(4, 9)))
    with pytest.raises(ProgramError, match=r"at least 7, got 5 because of .*\d+: padded = nn.func"):
        program(program.params, *[np.ones((4, 5), np.float32)] * 2)
    with pytest.raises(ProgramError, match=r"of input x, 9, got 8 because of .*\d+: return padded\["):
        program(program.params, np.ones((4, 9), np.float32), np.ones((4, 8), np.float32))
    assert "7 to any size (the condition" in str(program)


def check(self: Any, x: Tensor) -> Tensor:
    assert (x > 0).all() and x.shape[0] > 1, "positive"  # noqa: PT018
    assert not (
        x  # some line
        > 9
    ).any()
    if x.shape[1] > 9 or (x == 5).any():
        raise ValueError("not 5")
    return torch.distributions.Normal(x, x).mean * 2


def test_asserted_values_are_asserted() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        program = jaxlstm.from_module(model_of(check), (torch.ones(4, 3),))
    x = np.ones((6, 2), np.float32)
    np.testing.assert_array_equal(jax.jit(program)(program.params, x), 2 * x)
    lines = (r"and x.shape\[0\] > 1", r"assert not \(|> 9|x  # some", r"if x.*5")
    for wrong, line in zip((-x, 10 * x, 5 * x), lines, strict=True):
        with pytest.raises(ProgramError, match=rf"requires: test_export_steps.py:\d+: .*{line}"):
            program(program.params, wrong)
        assert np.isnan(jax.jit(program)(program.params, wrong)).all()


@pytest.mark.parametrize("name", ["or", "function"])
def test_other_truths_in_an_assertion_are_those_of_the_example(name: str) -> None:
    def either(self: Any, x: Tensor) -> Tensor:
        assert (x > 0).all() or (x < 0).all()
        return x

    def any_of(self: Any, x: Tensor) -> Tensor:
        assert any([(x > 0).all(), (x < 0).all()])
        return x

    program = from_module(
        model_of({"or": either, "function": any_of}[name]), (torch.ones(4, 3),), "conditions"
    )
    np.testing.assert_array_equal(program(program.params, -np.ones((4, 3), np.float32)), -np.ones((4, 3)))


@pytest.mark.filterwarnings("ignore:from_module fixed parts")
@pytest.mark.parametrize("reads_values", [False, True])
def test_functions_that_fail_in_a_try_of_the_model(reads_values: bool) -> None:
    """A failure by sizes leaves nothing in the program; one by values is an error: others may not fail."""

    def forward(self: Any, ids: Tensor) -> Tensor:
        if reads_values:
            np.asarray(ids[0])
        try:
            ids = ids.reshape(7, -1)
        except RuntimeError:
            ids = ids + 1
        try:
            return self.table(ids)
        except IndexError:
            return self.table(ids.clamp(0, 3))

    model = module_of(forward, table=nn.Embedding(4, 3))
    for ids in (torch.ones(2, 3).long(), torch.ones(7, 3).long(), torch.zeros(2, 7).long()):
        program = jaxlstm.from_module(model, (torch.ones(2, 3).long(),))
        with torch.no_grad():
            np.testing.assert_array_equal(program(program.params, ids.int().numpy()), model(ids))
    with pytest.raises(ProgramError, match="from 0 to 3, got 6"):
        jaxlstm.from_module(model, (torch.full((2, 3), 5),))(program.params, np.full((2, 3), 5, np.int32))
