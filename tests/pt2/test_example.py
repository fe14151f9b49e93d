"""A program knows the example of its export, and comparisons start from it."""

import pickle
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils._pytree import tree_map_only

import jaxlstm
from jaxlstm.inference.random_inputs import random_inputs
from jaxlstm.programs.inputs import as_arguments
from testing.checkpoints.seed import CORPUS
from testing.command import jaxlstm_command
from testing.exported import save, with_example
from testing.graphs import to_numpy
from testing.modules import module_of


class Ranked(nn.Module):
    """A model that refuses most integers: ranks below 3, unsorted lengths, a mask with gaps."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(9, 4))
        self.lstm = nn.LSTM(4, 3, batch_first=True)

    def forward(self, batch: dict[str, torch.Tensor], lengths: torch.Tensor, gain: float) -> Any:
        ranks, mask = batch["ranks"], batch["mask"]
        torch.ops.aten._assert_async.msg((ranks >= 3).all(), "ranks start at 3")
        torch.ops.aten._assert_async.msg((mask[:, 1:] <= mask[:, :-1]).all(), "a mask has no gaps")
        rows = self.weight[ranks - 3] * mask[..., None] * gain
        return self.lstm(pack_padded_sequence(rows, lengths, batch_first=True))[1][0]


def example_of_ranked() -> tuple[dict[str, torch.Tensor], torch.Tensor, float]:
    torch.manual_seed(0)
    lengths = torch.tensor([6, 4, 4, 2])
    mask = torch.arange(6) < lengths[:, None]
    return {"ranks": torch.randint(3, 9, (4, 6)), "mask": mask}, lengths, 0.5


def assert_same(actual: Any, expected: Any) -> None:
    arrays = (tree_map_only(torch.Tensor, to_numpy, part) for part in (actual, expected))
    jax.tree.map(np.testing.assert_array_equal, *arrays)


def assert_is_example(program: jaxlstm.Program, args: tuple[Any, ...]) -> None:
    assert program.example is not None
    assert program.example[1] == {}
    assert_same(program.example[0], args)


def test_example_of_a_live_module_and_of_a_saved_file(tmp_path: Path) -> None:
    args = example_of_ranked()
    program = jaxlstm.from_module(Ranked().eval(), args)
    assert_is_example(program, args)
    program.save(tmp_path / "a.pt2")
    again = jaxlstm.load_program(tmp_path / "a.pt2")
    assert_is_example(again, args)
    assert_is_example(pickle.loads(pickle.dumps(again)), args)
    (given, _) = torch.export.load(tmp_path / "a.pt2").example_inputs or ((), {})
    assert_same(given, args)


@pytest.mark.parametrize("version", ["2.6", "2.8", "2.9", "2.13"])
def test_example_of_a_file_of_torch(version: str) -> None:
    program = jaxlstm.load_program(CORPUS / f"pt2-{version}.pt2")
    assert program.example is not None
    args, kwargs = program.example
    assert args[0].shape == (2, 3, 2)
    assert args[0].any()
    assert (args[1:], kwargs) == ((2.0,), {})


@pytest.mark.parametrize(
    "value",
    [
        ((torch.ones(2, 4),), {}),  # another number of columns
        ((torch.ones(2, 3, dtype=torch.float64),), {}),
        ((torch.ones(2, 3), torch.ones(2, 3)), {}),
        ((), {}),
        pytest.param(None, id="no file of torch.save"),
    ],
)
def test_an_example_that_does_not_fit_is_none(tmp_path: Path, value: Any) -> None:
    save(tmp_path / "a.pt2", nn.Linear(3, 2), torch.ones(2, 3))
    torch.save(value, tmp_path / "example.pt")
    saved = (tmp_path / "example.pt").read_bytes() if value else b"cos\nsystem\n(S'touch x'\ntR."
    with_example(tmp_path / "a.pt2", saved)
    program = jaxlstm.load_program(tmp_path / "a.pt2")
    assert program.example is None
    program.save(tmp_path / "c.pt2")
    assert torch.export.load(tmp_path / "c.pt2").example_inputs is None
    assert (random_inputs(program) or [])[0].shape == (2, 3)


@pytest.mark.quick("9")
@pytest.mark.parametrize("smallest", [0, 9])
def test_random_inputs_keep_the_conditions_of_the_model(smallest: int) -> None:
    program = jaxlstm.from_module(Ranked().eval(), example_of_ranked())
    inputs = random_inputs(program, seed=smallest, smallest=smallest)
    assert inputs is not None
    ranks, mask, lengths = inputs
    assert (ranks >= 3).all()
    assert (np.diff(mask.astype(int)) <= 0).all()
    assert (np.diff(lengths) <= 0).all()
    args, kwargs = as_arguments(program.graph, inputs)
    assert np.isfinite(program(program.params, *args, **kwargs)).all()


def test_random_inputs_are_the_example_where_the_program_refuses_others() -> None:
    def forward(_: nn.Module, x: torch.Tensor) -> torch.Tensor:
        torch.ops.aten._assert_async.msg((x.sum(1) == 1).all(), "rows of probabilities")
        return x.log()

    x = torch.full((2, 4), 0.25)
    (array,) = random_inputs(jaxlstm.from_module(module_of(forward), (x,))) or []
    np.testing.assert_array_equal(array, x)


def test_commands_start_from_the_example(tmp_path: Path) -> None:
    """They held no comparison before: invented ranks, lengths or masks are refused."""
    jaxlstm.from_module(Ranked().eval(), example_of_ranked()).save(tmp_path / "ranked.pt2")
    assert "HOLDS" in jaxlstm_command("check", tmp_path / "ranked.pt2", status=0).out
    done = jaxlstm_command(
        "convert", tmp_path / "ranked.pt2", "-o", tmp_path / "ranked.py", "--test", status=0
    )
    assert "equal to the program" in done.out
    text = (tmp_path / "test_ranked.py").read_text()
    assert "np.array([" in text
