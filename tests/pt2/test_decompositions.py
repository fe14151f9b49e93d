"""Operators that are composed of others, and a loss whose sizes torch does not trace."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import jaxlstm
from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.operators.registry import find_operator
from testing.gradients import require_equal
from testing.graphs import to_numpy
from testing.modules import module_of

COMPOSED: dict[str, Callable[[Tensor], Tensor]] = {
    "triplet_margin_loss": lambda x: nn.functional.triplet_margin_loss(x[0], x[1], x[2]),
    "cosine_embedding_loss": lambda x: nn.functional.cosine_embedding_loss(x[0], x[1], torch.ones(4)),
    "linalg_multi_dot": lambda x: torch.linalg.multi_dot([x[0], x[1], x[2]]),
    "soft_margin_loss": lambda x: nn.functional.soft_margin_loss(x, x.detach().sign()),
    "renorm": lambda x: x.renorm(2, 0, 1.5),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_composed_operators(name: str, tmp_path: Path) -> None:
    """At other sizes, and from a file."""
    assert find_operator(f"aten.{name}.default") is None
    module = module_of(lambda _, x: COMPOSED[name](x))
    program = jaxlstm.from_module(module, (torch.randn(3, 4, 4),))
    program.save(tmp_path / "composed.pt2")
    for other in (program, jaxlstm.load_program(tmp_path / "composed.pt2")):
        require_equal(other, module, torch.randn(5, 4, 4, requires_grad=True))


def test_a_file_of_torch_is_refused_until_it_is_decomposed(tmp_path: Path) -> None:
    module = module_of(lambda _, x: x.renorm(2, 0, 1.5))
    exported = torch.export.export(module, (torch.randn(3, 4),))
    with pytest.raises(ProgramError, match=r"aten\.renorm\.default.*\n.*or export the model without"):
        _loaded(exported, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        decomposed = exported.run_decompositions()
    require_equal(_loaded(decomposed, tmp_path), module, torch.randn(3, 4))


def _loaded(exported: torch.export.ExportedProgram, folder: Path) -> Any:
    torch.export.save(exported, folder / "saved.pt2")
    return jaxlstm.load_program(folder / "saved.pt2")


class Recogniser(nn.Module):
    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.rnn, self.linear = nn.LSTM(5, 4, bidirectional=True), nn.Linear(8, 7)
        self.settings = settings

    def forward(self, x: Tensor, y: Tensor, frames: Tensor, lengths: Tensor) -> Tensor:
        scores = self.linear(self.rnn(x)[0]).log_softmax(-1)
        return nn.functional.ctc_loss(scores, y, frames, lengths, **self.settings) * 0.1


@pytest.mark.parametrize(
    "settings", [{}, {"reduction": "none", "zero_infinity": True}, {"reduction": "sum", "blank": 6}], ids=str
)
@pytest.mark.parametrize("in_one_row", [False, True])
def test_ctc_loss(settings: dict[str, Any], in_one_row: bool) -> None:
    """Lengths are tensors; targets have repeated classes and no class, and one does not fit its frames."""
    torch.manual_seed(0)
    model = Recogniser(**settings).eval()

    def example(steps: int, batch: int, most: int) -> tuple[Tensor, ...]:
        y = torch.randint(1, 6, (batch, most))
        lengths = torch.randint(1, most + 1, (batch,))
        y[0], lengths[0], lengths[1] = 2, most, 0
        frames = torch.full((batch,), steps)
        frames[2] = 2 * most  # Repeated classes need blanks between them.
        if "zero_infinity" in settings:
            frames[0] = most
        rows = torch.cat([row[:n] for row, n in zip(y, lengths, strict=True)]) if in_one_row else y
        return torch.randn(steps, batch, 5), rows, frames, lengths

    program = jaxlstm.from_module(model, example(12, 3, 4))
    for sizes in ((12, 3, 4), (17, 5, 6)):
        losses = require_equal(program, model, *example(*sizes))[0]
        if "zero_infinity" in settings:
            assert losses[0] == 0 < losses[1]


def test_ctc_loss_of_wrong_arguments() -> None:
    """Torch raises an error, or documents that a target has no blank. The gradient of infinity is NaN."""
    torch.manual_seed(0)
    model = Recogniser(reduction="none").eval()
    x, y, ones = torch.randn(8, 4, 5), torch.randint(1, 6, (4, 3)), torch.ones(4, dtype=torch.int64)
    y[0, 0] = 0
    program = jaxlstm.from_module(model, (x, y, 8 * ones, ones))
    x, y = to_numpy(x), to_numpy(y)
    losses = jax.jit(program)(program.params, x, y, np.array([8, 9, 8, 8]), np.array([1, 1, 4, 1]))
    assert np.isnan(losses).tolist() == [True, True, True, False]
    args = x, y, np.array([8, 8, 8, 1]), np.array([1, 1, 1, 3])
    of_loss = jax.value_and_grad(lambda params: program(params, *args)[3])
    for run in (of_loss, jax.jit(of_loss)):
        loss, gradient = run(program.params)
        assert loss == np.inf
        assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(gradient))
