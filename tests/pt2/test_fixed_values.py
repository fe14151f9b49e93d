"""Values that a trace reads, fixes, knows or asserts: they are checked at each call."""

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

import jaxlstm
from jaxlstm.programs.errors import ProgramError
from testing.gradients import require_results
from testing.graphs import to_numpy
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


def test_a_branch_on_values() -> None:
    model = model_of(branch)
    message = r"conditions on values.*at test_fixed_values.py:\d+: return x \* \d if"
    program = from_module(model, (torch.ones(4, 3),), message)
    # Under jit the values are unknown, and both branches are exported.
    for sign in (1, -1):
        require_results(program, model, sign * torch.ones(6, 2))
    x = np.ones((6, 2), np.float32)
    gradient = jax.grad(lambda x: program(program.params, x).sum())
    for run in (gradient, jax.jit(gradient), lambda x: jax.jit(jax.vmap(gradient))(jnp.stack([x, -x]))[0]):
        np.testing.assert_array_equal(run(-x), 3 * x)
        np.testing.assert_array_equal(run(x), 2 * x)


def test_an_assertion_names_its_line_and_value(tmp_path: Path) -> None:
    model = model_of(lambda self, x, n: [x * k for k in range(int(n))])
    from_module(model, (torch.ones(2, 3), torch.tensor(3)), "u0 is 3").save(tmp_path / "a.pt2")
    program = jaxlstm.load_program(tmp_path / "a.pt2")
    with pytest.raises(ProgramError, match=r"requires: the number read at '.*int\(n\).*' <= 3; got 4"):
        program(program.params, np.ones((2, 3), np.float32), np.int64(4))
    model = model_of(lambda self, x, n: x * 2 if x[:, :n].shape[1] != x.shape[1] else x)
    message = r"Ne\(.*\) is True at test_fixed_values.py"
    from_module(model, (torch.ones(2, 3), torch.tensor(1)), message).save(tmp_path / "a.pt2", overwrite=True)
    program = jaxlstm.load_program(tmp_path / "a.pt2")
    program.at_sizes = None  # without the other branch
    with pytest.raises(
        ProgramError, match=r"fixed: Ne.* is True at test_fixed.*x\[:, :n\].shape.*got 3 and 3"
    ):
        program(program.params, np.ones((2, 3), np.float32), np.int64(3))


def test_floats_that_forward_reads_differ_by_rounding() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        total = 0.0
        for row in self.lstm(x)[0].sum((1, 2)).detach().numpy()[::-1]:
            total = 0.9 * total + row
        return x * float(total)

    model, x = model_of(forward), torch.randn(40, 2, 3)
    program = from_module(model, (x,), "a value read as")
    require_results(program, model, x, atol=1e-5)
    assert np.isnan(jax.jit(program)(program.params, x.numpy() * 1.001)).all()


@pytest.mark.filterwarnings("ignore:.*fixed parts of the model")
@pytest.mark.parametrize(
    "condition",
    [
        lambda v: v >= 4,
        lambda v: v > 3 and v + 1 >= 5,
        lambda v: not v < 4,
        lambda v: v < 15 and v <= 14,
        lambda v: v > 3 and v > 3.5,
    ],
)
def test_conditions_on_a_float(condition: Callable[[float], bool]) -> None:
    """Torch's branch, or NaN under ``jit``."""
    model = module_of(lambda self, x: x * 2 if condition(x.sum().item()) else x * 3)
    program = jaxlstm.from_module(model, (torch.full((2, 3), 2.0),))
    for total in (2.5, 3.25, 3.75, 4.5, 12.0, 14.5, 15.5):
        x = torch.full((2, 3), total / 6)
        result = jax.jit(program)(program.params, x.numpy())
        is_nan = bool(np.isnan(result).all())
        assert total != 12 or not is_nan
        np.testing.assert_allclose(result, np.full((2, 3), np.nan) if is_nan else model(x), rtol=1e-5)


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_conditions_on_the_results_of_a_layer(layer: Any, bidirectional: bool) -> None:
    """The example decides more conditions than there are branches, and the program has its results."""

    def forward(self: Any, x: Tensor) -> Tensor:
        y, state = self.layer(x)
        last = state[0] if isinstance(state, tuple) else state
        for number, value in enumerate([*y[:, 0, 0], *last[0, 0]]):
            y = y * 2 if value > 0 else y + number
        return y

    torch.manual_seed(0)
    model = module_of(forward, layer=layer(3, 3, bidirectional=bidirectional, batch_first=True))
    x = torch.randn(4, 2, 3)
    program = from_module(model, (x,), "has conditions on values. Fixed: Eq")
    require_results(program, model, x, atol=1e-5)


def test_a_loop_over_a_tensor_fixes_its_size() -> None:
    model = model_of(lambda self, x, n: [x[:, :k] for k in range(max(k for k in n))])
    from_module(
        model, (torch.ones(2, 3), torch.tensor([3, 2])), r"'n.shape\[0\] == 2' \(test_fixed.*for k in n\)"
    )


@pytest.mark.filterwarnings("ignore:from_module fixed parts")
def test_rows_of_unknown_number_are_read_and_returned() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        places = (x > 0).nonzero()
        places, y = places[places[:, 0] >= 0], torch.zeros(3, 5)
        for row, start in places.tolist():
            y[row, start:] += 1.0
        return y, places

    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    program = jaxlstm.from_module(model := model_of(forward), (x,))
    require_results(program, model, x)
    # A trace has the number of the example: none, one and all.
    for other in (-abs(x), x - x.max() + 0.1, abs(x)):
        require_results(program, model, other, jit=False)
        y, places = jax.jit(program)(program.params, other.numpy())
        assert np.isnan(y).all()
        assert (places == np.iinfo(np.int32).min).all()


class Counts(nn.Module):
    """Results by ``out``, and values that an overridden ``__call__`` reads, as in torch_geometric."""

    def __call__(self, index: Tensor, groups: int = 0) -> Any:
        return super().__call__(index, groups or int(index.max()) + 1)

    def forward(self, index: Tensor, groups: int = 0) -> Tensor:
        ends = index.new_zeros(groups + 1)
        counts = torch.zeros(groups, out=index.new()).scatter_add_(0, index, torch.ones_like(index))
        torch.cumsum(counts, 0, out=ends[1:])
        return ends[index] * 2 if bool((counts > 1).all()) else ends


def test_values_that_an_overridden_call_reads() -> None:
    program = from_module(Counts(), (torch.tensor([0, 0, 1, 1]),), "conditions on values")
    for index in (torch.tensor([0, 0, 1, 1]), torch.tensor([0, 2, 2, 1, 1, 1])):
        require_results(program, Counts(), index, jit=False)


def test_integers_that_values_fix() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        chosen = x.argmax(0) if x.sum() > 0 else x
        return [int(n) for n in x.argmax(1)], chosen, chosen.to(torch.uint8)

    program = from_module(model_of(forward), (torch.eye(2),), "fixed parts of the model")
    assert program(program.params, np.eye(2, dtype=np.float32))[0] == [0, 1]
    smallest = [np.iinfo(np.int32).min] * 2
    for x, expected, unsigned in ((np.eye(2), [0, 1], [0, 1]), (-np.eye(2), smallest, [255] * 2)):
        fixed, chosen, small = jax.jit(program)(program.params, x.astype(np.float32))
        assert list(map(int, fixed)) == list(map(int, chosen)) == expected
        assert small.tolist() == unsigned


def test_booleans_cannot_show_that_a_value_differs() -> None:
    model = model_of(lambda self, x: x > 0 if x.sum() > 0 else x < 0)
    program = from_module(model, (torch.eye(2),), "fixed parts of the model")
    require_results(program, model, -torch.eye(2), jit=False)
    with pytest.raises(ProgramError, match="all results are booleans"):
        jax.jit(program)(program.params, np.eye(2, dtype=np.float32))


@pytest.mark.quick("equal", "<lambda>")
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("truth", [torch.equal, torch.allclose, lambda x, y: torch.is_nonzero((x - y).sum())])
def test_functions_that_return_a_truth(truth: Callable[[Tensor, Tensor], bool]) -> None:
    model = model_of(lambda self, x, y: x * 2 if truth(x, y) else self.first(y))
    model.first = torch.nn.utils.weight_norm(nn.Linear(3, 3))  # its weight is computed
    x, y = torch.ones(2, 3), torch.zeros(2, 3)
    program = from_module(model, (x, x), "fixed parts of the model .* at test_fixed_values")
    require_results(program, model, x, x)
    require_results(program, model, x, y, hides=truth in (torch.equal, torch.allclose))


def test_an_argument_that_is_a_number() -> None:
    model, x = model_of(lambda self, x, n: x * n), torch.ones(2, 3)
    program = jaxlstm.from_module(model, (torch.ones(4, 3), 3))
    for n in (3, 4):
        require_results(program, model, x, n, hides=n == 4)
    with pytest.raises(ProgramError, match=r"was fixed to 3 by the export, got 4\.5"):
        program(program.params, x.numpy(), 4.5)


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
        require_results(program, model, x, jit=True, rtol=1e-5, atol=1e-6)


LONGEST = ["lengths.max()", "int(lengths.max())", "max(lengths)", "max(lengths.tolist())", "int(lengths[0])"]
LONGEST += ["max(list(map(int, lengths)))"]


@pytest.mark.quick(
    "lengths.max()-True",
    "max(lengths.tolist())-False",
    "int(lengths[0])-True",
    "max(list(map(int, lengths)))-False",
)
@pytest.mark.filterwarnings("ignore:where received a uint8 condition")
@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("longest", LONGEST)
def test_the_largest_length_is_the_size_of_an_axis(longest: str, packs: bool) -> None:
    """Under jit the length is unknown, and the size is not."""

    def masked(self: Any, x: Tensor, lengths: Tensor) -> Tensor:
        if packs:
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
            x, lengths = nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)
        mask = torch.arange(eval(longest)) < lengths[:, None]
        return torch.where(mask.byte()[..., None], x, 1.0) * mask.byte().all()

    program = jaxlstm.from_module(model := model_of(masked), (torch.randn(2, 5, 3), torch.tensor([5, 2])))
    for steps, lengths in ((7, [7, 7, 7]), (4, [4, 1])):
        args = torch.randn(len(lengths), steps, 3), torch.tensor(lengths)
        require_results(program, model, *args, jit=True)
    args = torch.randn(2, 4, 3), torch.tensor([3, 1])
    if packs:  # The steps of the longest sequence are torch's.
        result = jax.jit(program)(program.params, *map(to_numpy, args))
        np.testing.assert_array_equal(result[:, :3], model(*args))
    else:
        require_results(program, model, *args, jit=True, hides=True)


def test_a_constant_that_changes_is_not_known() -> None:
    def change(self: Any, x: Tensor, shared: bool) -> Tensor:
        steps = torch.arange(3)
        (steps.view_as(x[0]) if shared else steps)[0] = x.shape[0]
        return x * steps.tolist()[0]

    model, x = model_of(change), torch.randn(4, 3)
    program = jaxlstm.from_module(model, (x, False))
    require_results(program, model, x, False, jit=False)
    program = jaxlstm.from_module(model, (x, True))
    with pytest.raises(ProgramError, match="the value that the export fixed"):
        program(program.params, x.numpy(), True)


def test_values_that_are_read_are_those_of_the_example(tmp_path: Path) -> None:
    """Sizes are fixed then, and parameters keep their names and ties."""
    model, x, n = model_of(steps), torch.randn(4, 2, 3), torch.tensor(3)
    message = r"the sizes of all inputs; a value read as 3 at test_fixed_values.py:\d+: for step in"
    made = from_module(model, (x, n), message)
    made.save(tmp_path / "a.pt2")
    program = jaxlstm.load_program(tmp_path / "a.pt2")
    assert program.params.keys() == {*dict(model.named_parameters())}
    assert program.tied == {"second.weight": "first.weight"}
    calls = {(call.path, call.line) for node in program.graph.nodes for call in node.calls}
    assert {path for path, _ in calls} == {"", "lstm", "first", "second"}
    assert ("", "y = self.second(self.first(y))[step:] + self.count") in calls
    require_results(program, model, x, n, atol=1e-5)
    with pytest.raises(ProgramError, match="the value that the export fixed to 3 at test_fixed_values"):
        program(program.params, x.numpy(), np.array(2))
    with pytest.raises(ProgramError, match=r"must have size 4.*\[input-shape"):
        jax.jit(program)(program.params, x[:3].numpy(), n.numpy())
    with pytest.raises(ProgramError, match=r"must have size 4.*Reason: torch.export failed.*\[input-shape"):
        jax.jit(made)(program.params, x[:3].numpy(), n.numpy())


def test_a_size_in_a_buffer() -> None:
    """It is known, and all axes stay free."""
    model = model_of(lambda self, x: x[:, : self.count.item()] * int(self.count))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        program = jaxlstm.from_module(model, (torch.ones(4, 3),))
    x = torch.ones(2, 5)
    require_results(program, model, x, jit=False)
    with pytest.raises(ProgramError, match=r"the value that the export fixed to 2 at test_fixed.*; got 3"):
        program(program.params, x.numpy(), buffers={"count": np.array(3, np.int32)})


@pytest.mark.quick("<lambda>-True1", "<lambda>-False")
@pytest.mark.filterwarnings("ignore:.*fixed parts of the model")
@pytest.mark.parametrize(
    ("count", "is_fixed"),
    [
        (lambda mask: len(mask.nonzero().tolist()), True),
        (lambda mask: sum(1 for _ in mask.nonzero()), True),
        (lambda mask: 2 if mask.nonzero().shape[0] == 2 else 5, False),
        (lambda mask: mask.nonzero().shape[0] * torch.equal(mask, mask), True),
    ],
)
def test_a_number_of_selected_elements_that_is_fixed(count: Any, is_fixed: bool) -> None:
    """Another number exports again, or gives NaN under jit, even if no result has selected elements."""
    model = model_of(lambda self, x, mask: x * count(mask))
    x, masks = torch.ones(3), [torch.tensor([True, True, False]), torch.tensor([True, False, False])]
    program = jaxlstm.from_module(model, (x, masks[0]))
    for mask in masks:
        require_results(program, model, x, mask, hides=is_fixed and mask is masks[1])


def numbers(self: Any, x: Tensor) -> dict[str, Any]:
    rows = x[x[:, 0] > 0]
    n = rows.shape[0]
    return {
        "linspace": torch.linspace(0, 1, n)[:, None] * rows,
        "linspace to n": x * torch.linspace(0, n, 5).sum(),
        **{
            f"{window} {periodic}": x * getattr(torch, f"{window}_window")(n, periodic).sum()
            for window in ("hann", "hamming", "blackman")
            for periodic in (False, True)
        },
        "float": x * float(n) + math.sqrt(n) + float(x.sum()),
        "xor": x * ((n > 2) ^ (rows[rows[:, 1] > 0].shape[0] > 1)) * (True ^ (n > 3)),
        "rounded": x * int(n / 2) * (round(n / 2) + abs(n - 5)) + math.ceil(n / 3) - math.floor(n / 3),
    }


@pytest.mark.slow
def test_numbers_of_selected_elements_are_computed() -> None:
    model = model_of(numbers)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        program = jaxlstm.from_module(model, (torch.randn(5, 3).abs(),))
    for count in range(6):
        x = torch.rand(5, 3) + 0.1
        x[count:, 0] *= -1
        for run in (program, jax.jit(program)):
            results = run(program.params, x.numpy())
            for name, expected in model(x).items():
                actual = results[name][: len(expected)]
                np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.filterwarnings("ignore:.*fixed parts of the model")
def test_a_whole_number_of_steps_that_is_fixed() -> None:
    """torch writes no assertion of a rounded number."""
    model = model_of(lambda self, x: sum(x * k for k in range(int(len(x[x > 0]) / 2) + 2)))
    program = jaxlstm.from_module(model, (torch.ones(3),))
    for x in (torch.ones(3), torch.tensor([1.0, 1, -1])):
        require_results(program, model, x, jit=False)
    require_results(program, model, -torch.ones(3), hides=True)


def test_a_result_without_tensors() -> None:
    model = model_of(lambda self, x: [2] if torch.equal(x, x) else [3])
    program = from_module(model, (torch.ones(3),), "a value read as True at test_fixed_values")
    assert program(program.params, np.ones(3, np.float32)) == [2]


def test_a_condition_on_the_number_of_selected_elements() -> None:
    """A program asserts that the selection is not empty, and fixes no size; another that it is empty."""
    model = model_of(lambda self, x: self.first(rows) if len(rows := x[x[:, 0] > 0]) else x * 0)
    program = from_module(model, (torch.ones(4, 3),), r"Ne\(u0, 0\) is True at test_fixed_values")
    x = torch.tensor([[1.0, 2, 3], [-1, 2, 3], [4, 5, 6]])
    np.testing.assert_allclose(jax.jit(program)(program.params, x.numpy())[:2], model(x).detach(), rtol=1e-5)
    require_results(program, model, -abs(x))


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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:from_module fixed parts")
def test_constants_of_a_trace() -> None:
    model = model_of(lambda *args: {name: function(*args) for name, function in CONSTANTS.items()})
    model.attribute = torch.tensor([3.0, 2.0, 1.0])
    program = jaxlstm.from_module(model, (torch.randn(4, 3), torch.tensor(2)))
    x, n = torch.randn(4, 3), torch.tensor(2)
    require_results(program, model, x, n, jit=False, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", INPUTS)
def test_an_input_does_not_become_a_constant(name: str) -> None:
    with pytest.raises(GuardOnDataDependentSymNode) as caught:
        jaxlstm.from_module(model_of(INPUTS[name]), (torch.randn(4, 3), torch.tensor(2)))
    reason = "memory of a tensor away" if name == "dlpack" else "does not know where the tensor"
    assert reason in caught.value.__notes__[-1]


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
        program = jaxlstm.from_module(model := model_of(check), (torch.ones(4, 3),))
    x = torch.ones(6, 2)
    require_results(program, model, x, jit=True)
    lines = (r"and x.shape\[0\] > 1", r"assert not \(|> 9|x  # some", r"if x.*5")
    for wrong, line in zip((-x, 10 * x, 5 * x), lines, strict=True):
        with pytest.raises(ProgramError, match=rf"requires: test_fixed_values.py:\d+: .*{line}"):
            program(program.params, wrong.numpy())
        require_results(program, model, wrong, jit=True, hides=True)


def either(self: Any, x: Tensor) -> Tensor:
    assert (x > 0).all() or (x < 0).all()
    return x


def any_of(self: Any, x: Tensor) -> Tensor:
    assert any([(x > 0).all(), (x < 0).all()])
    return x


@pytest.mark.quick("any_of")
@pytest.mark.parametrize("forward", [either, any_of])
def test_other_truths_in_an_assertion_are_those_of_the_example(forward: Callable[..., Any]) -> None:
    program = from_module(model := model_of(forward), (torch.ones(4, 3),), "conditions")
    require_results(program, model, -torch.ones(4, 3), jit=False)


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
    program = jaxlstm.from_module(model, (torch.ones(2, 3).long(),))
    for ids in (torch.ones(2, 3).long(), torch.ones(7, 3).long(), torch.zeros(2, 7).long()):
        require_results(program, model, ids, jit=False)
    with pytest.raises(ProgramError, match="from 0 to 3, got 6"):
        jaxlstm.from_module(model, (torch.full((2, 3), 5),))(program.params, np.full((2, 3), 5, np.int32))
