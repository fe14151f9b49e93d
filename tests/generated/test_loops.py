"""Random loops over rows, with states, lists of results and writes: torch's values and gradients."""

import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jaxlstm import from_module
from jaxlstm.programs.passes import repeat_to_scan
from testing.gradients import require_equal
from testing.seeds import seeds
from testing.written import assert_equal, written_program

STEPS = 9
_ROWS = """x[:, {t}]; x[:, -1 - {t}]; x[:, 2 * {t}]; x[:, ({t} * 5) % 9]; x[:, {t} : {t} + 1].sum(1);
columns[{t}]; x[:, {t} + 1]; table[{t}]; y[:, 8 - {t} : 9 - {t}].mean(1); x.flip(1)[:, {t}]; x[:, 3];
parts[{t}][:, 0]; late[-1 - {t}]; early[{t}]; early[8 - {t}] * x[:, {t}]"""
_STATES = """torch.tanh({h} + row); {h} * 0.5 + row * self.w; self.cell(row, {h}); torch.maximum({h}, row);
{h} + row * 0; torch.where(row > 0, {h}, row)"""
_KEPT = """late.append({h}); late.insert(0, {h} * 2); early.append(row + {h}); y = y.clone(); y[:, {t}] = {h};
late.append({h}) if {t} % 2 else None; early.append({h}[:, :1].expand(-1, 3)); pass; h, g = g, h;
y[:, 8 - {t}] = row; y[:, {t}] += {h}"""
_RESULTS = """h; g; torch.stack(late, {d}); torch.cat(late, {e}); torch.stack(early[::-1], {d}); y;
torch.cat(early[2:7], {e}); late[3] if len(late) > 3 else h; torch.stack([late[0], *early, g], {d});
torch.stack(late[::2], {d}); torch.cat([y[:, 0], *late], {e}); torch.stack(early[5:] + early[:5])"""


class _Loops(nn.Module):
    """Some random loops, without lines that torch refuses."""

    def __init__(self, seed: int, x: Tensor) -> None:
        super().__init__()
        self.w, self.cell = nn.Parameter(torch.linspace(-1, 1, 3)), nn.GRUCell(3, 3)
        self.chosen = random.Random(seed)
        self.lines = ["late, early, table = [], [x[:, t] for t in range(9)], self.w * x[0]"]
        self.lines += ["h = g = x[:, 0]", "y, columns, parts = x * 1, x.unbind(1), x.split(1, 1)"]
        for _ in range(self.chosen.randint(1, 3)):
            self._add(x, self._loop())
        for _ in range(4):
            text = self._one_of(_RESULTS, d=self.chosen.randint(-3, 2), e=self.chosen.randint(0, 1))
            self._add(x, f"results.append({text})")

    def _one_of(self, texts: str, **names: Any) -> str:
        return self.chosen.choice(texts.split(";")).strip().format(**names)

    def _loop(self) -> str:
        pick, t = self.chosen.choice, self.chosen.choice(["(t)", "(8 - t)"])
        lines = [f"row = {self._one_of(_ROWS, t=t)}"]
        for _ in range(pick((1, 1, 2))):
            lines.append(f"{pick('hg')} = {self._one_of(_STATES, h=pick('hg'))}")
        for _ in range(pick((1, 2))):
            lines.append(self._one_of(_KEPT, h=pick("hg"), t=t))
        return f"for t in range({STEPS}):\n  " + "\n  ".join(lines)

    def _add(self, x: Tensor, line: str) -> None:
        self.lines.append(line)
        try:
            self._compile()
            torch.stack([y.sin().sum() for y in self(x)]).sum().backward()
        except (RuntimeError, IndexError, TypeError, ValueError):
            self.lines.pop()
            self._compile()

    def _compile(self) -> None:
        body = "\n ".join("\n".join(["results = [x * self.w]", *self.lines]).split("\n"))
        self.text, scope = f"def run(self, x):\n {body}\n return [*results, h + g, y]", {"torch": torch}
        exec(self.text, scope)
        self.run: Any = scope["run"]

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", seeds(fast=1, slow=300))
def test_loops(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeat_to_scan, "FEWEST_COPIES", 5)
    x = torch.linspace(-2, 2, 2 * STEPS * 3).reshape(2, STEPS, 3).sin()
    model = _Loops(seed, x)
    program = from_module(model, (x,))
    for jit in (False, True):
        require_equal(program, model, x.clone().requires_grad_(), jit=jit)
    assert_equal(written_program(program), x)
