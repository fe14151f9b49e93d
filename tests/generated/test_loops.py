"""Random loops over rows, with states, lists of results and writes: torch's values and gradients."""

import random

import pytest
import torch
from torch import Tensor, nn

from jaxlstm import from_module
from jaxlstm.programs.passes import repeat_to_scan
from testing.gradients import require_equal
from testing.random_programs import RandomProgram, one_of
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


class _Loops(RandomProgram):
    """Some random loops, without lines that torch refuses."""

    def __init__(self, seed: int, x: Tensor) -> None:
        super().__init__("x", ["results = [x * self.w]"])
        self.w, self.cell = nn.Parameter(torch.linspace(-1, 1, 3)), nn.GRUCell(3, 3)
        self.lines += ["late, early, table = [], [x[:, t] for t in range(9)], self.w * x[0]"]
        self.lines += ["h = g = x[:, 0]", "y, columns, parts = x * 1, x.unbind(1), x.split(1, 1)"]
        chosen, results = random.Random(seed), "[*results, h + g, y]"
        lines = [_loop(chosen) for _ in range(chosen.randint(1, 3))]
        for _ in range(4):
            text = one_of(chosen, _RESULTS, d=chosen.randint(-3, 2), e=chosen.randint(0, 1))
            lines.append(f"results.append({text})")
        for line in lines:
            self.add(line, results, lambda: torch.stack([y.sin().sum() for y in self(x)]).sum().backward())
        self.define(results)


def _loop(chosen: random.Random) -> str:
    pick, t = chosen.choice, chosen.choice(["(t)", "(8 - t)"])
    lines = [f"for t in range({STEPS}):", f"row = {one_of(chosen, _ROWS, t=t)}"]
    lines += [f"{pick('hg')} = {one_of(chosen, _STATES, h=pick('hg'))}" for _ in range(pick((1, 1, 2)))]
    lines += [one_of(chosen, _KEPT, h=pick("hg"), t=t) for _ in range(pick((1, 2)))]
    return "\n  ".join(lines)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", seeds(fast=0, slow=300))
def test_loops(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeat_to_scan, "FEWEST_COPIES", 5)
    x = torch.linspace(-2, 2, 2 * STEPS * 3).reshape(2, STEPS, 3).sin()
    model = _Loops(seed, x)
    program = from_module(model, (x,))
    for jit in (False, True):
        require_equal(program, model, x.clone().requires_grad_(), jit=jit)
    assert_equal(written_program(program), x)
