"""Sizes that jit does not know, such as the length of x[mask], are refused where their elements matter."""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import Tensor

import jaxlstm
from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.example_values import ALLOWED, without
from jaxlstm.programs.sizes.prefix import Count
from jaxlstm.programs.sizes.prefix_rules import run_unknown
from testing.graphs import to_numpy
from testing.modules import module_of
from testing.zoo.selections import Forward

REFUSED: dict[str, Forward] = {
    "most common": lambda self, x, lengths, some: x[some].mode(0)[0],
    "repeats": lambda self, x, lengths, some: x.repeat(len(x[some]), 1, 1),
    "products of all pairs": lambda self, x, lengths, some: x[some][:, 0] @ x[some][:, 0].T,
    "a size of a new tensor": lambda self, x, lengths, some: x.new_ones(lengths.max() + 1, 2),
    "after the end": lambda self, x, lengths, some: x[some].roll(1, 0),
}


@pytest.mark.filterwarnings("ignore:.*fixed parts of the model")
@pytest.mark.parametrize("name", REFUSED)
def test_what_depends_on_elements_after_the_end_is_refused(name: str) -> None:
    args = torch.rand(4, 6, 3), torch.tensor([4, 1, 5, 2])
    # In the file of its functions, whose ``len`` from_module replaces.
    model = module_of(lambda self, x, lengths: REFUSED[name](self, x, lengths, lengths > 0))
    program = jaxlstm.from_module(model, args)
    program(program.params, *map(to_numpy, args))
    refused = pytest.raises(ProgramError, match=r"which is unknown under.*\[node-failed")
    with refused, without(ALLOWED):
        jax.jit(program)(program.params, *map(to_numpy, args))


@pytest.mark.parametrize("count", [0, 2, 3, 5])
def test_masked_writes_of_another_number(count: int) -> None:
    """Torch raises an error; under jit, no number of the result is taken for a right one."""

    def forward(self: Any, x: Tensor, mask: Tensor, y: Tensor) -> Tensor:
        x = x.clone()
        x[mask] = y
        return x

    args = torch.rand(5, 2), torch.arange(5) < 3, torch.rand(3, 2)
    program = jaxlstm.from_module(module_of(forward), args)
    results = jax.jit(program)(program.params, args[0].numpy(), np.arange(5) < count, args[2].numpy())
    assert np.isnan(results).all() if count != 3 else not np.isnan(results).any()


@pytest.mark.parametrize("count", [1, 3])
def test_an_index_of_fewer_rows_decides_the_size(count: int) -> None:
    model = module_of(lambda self, x, mask, n: x[mask].gather(1, n[:, None][mask & (n > 0)]))
    mask = torch.tensor([True, True, True, False])
    args = torch.rand(4, 3), mask, torch.tensor([1, 0, 2, 2])
    program = jaxlstm.from_module(model, args)
    numbers = torch.arange(4) < count
    expected = model(args[0], mask, numbers.long())
    result = jax.jit(program)(program.params, args[0].numpy(), mask.numpy(), numbers.long().numpy())
    np.testing.assert_array_equal(result[: len(expected)], expected)
    assert np.isnan(result[len(expected) :]).all()


_FUNCTIONS: dict[str, Any] = {
    **{
        f"_operator.{name}": getattr(operator, name)
        for name in ("add", "sub", "mul", "floordiv", "mod", "neg")
    },
    "torch.sym_max": jnp.maximum,
    "torch.sym_min": jnp.minimum,
}


@pytest.mark.parametrize("seed", range(20))
def test_a_function_of_the_number_of_steps_is_bounded(seed: int) -> None:
    """For each number of steps that a packed batch may have, an array has room for the size."""
    rng, steps = np.random.default_rng(seed), 9
    calls = [(rng.choice([*_FUNCTIONS]), int(rng.integers(1, 7)), bool(rng.random() < 0.5)) for _ in range(4)]
    for longest in range(1, steps + 1):
        size, exact, whole = Count(jnp.asarray(longest), steps, is_packed=True), longest, steps
        for name, number, is_first in calls:
            is_first &= name.endswith(("add", "sub", "mul")) or "sym" in name
            of_arrays = _FUNCTIONS[name]
            function = {"sym_max": max, "sym_min": min}.get(name.partition(".")[2], of_arrays)

            def run(*args: Any, known: Any = function, unknown: Any = of_arrays) -> Any:
                return (known if all(isinstance(arg, int) for arg in args) else unknown)(*args)

            def given(item: Any, more: Any = number, first: Any = is_first, name: Any = name) -> list[Any]:
                return [item] if name.endswith("neg") else [more, item] if first else [item, more]

            size, _ = run_unknown(name, run, given(size), {})
            exact, whole = run(*given(exact)), run(*given(whole))
            if not isinstance(size, Count):
                return
            assert (int(size.number()), size.times * size.whole) == (exact, whole)
            assert size.times * size.size >= max(exact, 0)
