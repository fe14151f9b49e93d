"""Tables and bags of rows: settings and refusals that PyTorch's samples leave out."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.operators.registry import find_operator
from testing.fx_graphs import program_of_function
from testing.op_samples import require_equal_gradients, require_equal_results

INDICES = torch.tensor([1, 2, 2, 0, 4, 1, 4, 0])
OFFSETS = torch.tensor([0, 3, 3, 6])


def table() -> Tensor:
    # Equal elements: the gradient of the maximum goes to the first.
    return torch.tensor([[1.0, 5], [3, 2], [3, 4], [7, 0], [0, 5]], dtype=torch.float64, requires_grad=True)


FAST = [("max", -1)]
BAGS = [
    ("mean", None),
    ("mean", 2),
    ("mean", -1),
    ("max", None),
    ("max", 2),
    ("sum", None),
    ("sum", 2),
    ("sum", -1),
]


@pytest.mark.parametrize(
    ("mode", "padding_idx"), [*FAST, *(pytest.param(*bag, marks=pytest.mark.slow) for bag in BAGS)]
)
def test_bags(mode: str, padding_idx: int | None) -> None:
    """An empty bag, a bag that may hold only padding, an end as the last offset, and rows of a matrix."""
    ends = torch.tensor([0, 1, 3, 8])

    def bags(weight: Tensor) -> tuple[Tensor, ...]:
        settings: dict[str, Any] = {"mode": mode, "padding_idx": padding_idx}
        return (
            functional.embedding_bag(INDICES, weight, OFFSETS, **settings),
            functional.embedding_bag(INDICES, weight, ends, include_last_offset=True, **settings),
            functional.embedding_bag(INDICES.reshape(2, 4), weight, **settings),
            functional.embedding_bag(INDICES[:0], weight, OFFSETS[:1], **settings),
        )

    with jax.enable_x64(True):
        require_equal_results(bags, [table()], jit=True)
        require_equal_gradients(bags, [table()])


@pytest.mark.slow
def test_weights_of_samples() -> None:
    factors = torch.arange(8.0, dtype=torch.float64).sin().requires_grad_()

    def bags(weight: Tensor, factors: Tensor) -> tuple[Tensor, ...]:
        settings: dict[str, Any] = {"mode": "sum", "per_sample_weights": factors, "padding_idx": 1}
        return (functional.embedding_bag(INDICES, weight, OFFSETS, **settings),)

    with jax.enable_x64(True):
        require_equal_gradients(bags, [table(), factors])


def test_gradient_scaled_by_frequency() -> None:
    # torch 2.13 on a CPU divides the gradients of embedding_bag by the counts of other rows, except with
    # equal counts, as here.
    def rows(weight: Tensor) -> tuple[Tensor, ...]:
        pairs = torch.tensor([3, 1, 1, 3])
        bag = functional.embedding_bag(pairs, weight, OFFSETS[:2], mode="sum", scale_grad_by_freq=True)
        return functional.embedding(INDICES[:5], weight, scale_grad_by_freq=True), bag

    with jax.enable_x64(True):
        require_equal_gradients(rows, [table()])


def test_index_out_of_range() -> None:
    """The error is raised outside of jit; under jit, the bag is NaN."""

    def bags(weight: Tensor, indices: Tensor) -> tuple[Tensor, ...]:
        modes = ("sum", "mean", "max")
        return tuple(functional.embedding_bag(indices, weight, OFFSETS, mode=mode) for mode in modes)

    weight = table().detach().float()
    program = program_of_function(bags, [weight, INDICES])
    beyond = INDICES.numpy() * np.array([1, 5, 1, 1, 1, 1, 1, 1])
    with pytest.raises(ProgramError) as caught:
        program({}, weight.numpy(), beyond)
    assert caught.value.code == "index-range"
    for result in jax.jit(program)({}, weight.numpy(), beyond):
        np.testing.assert_array_equal(np.isnan(result), [[True] * 2, *[[False] * 2] * 3])


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "a start after 0": ("offsets must start with 0, got 1", {"offsets": [1, 2]}),
    "an end before the end": (
        "must be the number of indices, 3",
        {"offsets": [0, 2], "include_last_offset": True},
    ),
    "an unknown mode": ("mode must be 0", {"mode": 3}),
    "weights of a mean": ("needs the mode sum", {"mode": 1, "per_sample_weights": jnp.ones(3)}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_arguments(name: str) -> None:
    message, settings = REFUSED[name]
    operator = find_operator("aten.embedding_bag.padding_idx")
    assert operator is not None
    arguments = {"offsets": [0, 2], **settings}
    arguments["offsets"] = jnp.array(arguments["offsets"])
    with pytest.raises(ValueError, match=message):
        operator.function(jnp.zeros((4, 2)), jnp.array([1, 2, 3]), **arguments)
