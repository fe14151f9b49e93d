"""Conditions on sizes that an export recorded: broken or unknown ones are refused, never ignored."""

from pathlib import Path

import numpy as np
import pytest

from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.sizes.guards import require_guards
from testing.graphs import X, node, program

SHAPES = {"x": (6, 3), "d_k_0": (4,)}
FREE = (None, None)


@pytest.mark.parametrize(
    ("guard", "holds"),
    [
        ("(L['x'].size()[0] % 2) == 0", True),
        ("L['x'].size()[0] > L['d']['k'][0].size()[0]", True),
        ("(4*max(1, L['x'].size()[1] // 2)) != 4", False),
        ("2 <= L['x'].size()[0] < 6", False),
        ("not (L['x'].size()[0] == 6 and L['x'].size()[1] - 1 == 2)", False),
        ("L['flag'] == True", True),
        # As torch writes an interpolation by a scale.
        ("math.trunc(0.5*torch.sym_float(L['x'].size()[1])) != 1", False),
        ("math.floor(L['x'].size()[0] / 4) == 1", True),
        ("math.ceil(L['x'].size()[0] / 4) == round(1.6)", True),
        ("torch._sym_sqrt(abs(L['x'].size()[0] - 15)) == 3.0", True),
    ],
)
def test_conditions(guard: str, holds: bool) -> None:
    if holds:
        require_guards((guard,), SHAPES, {"flag": True})
        return
    with pytest.raises(ProgramError, match=r"does not hold.*\[guard"):
        require_guards((guard,), SHAPES, {"flag": True})


@pytest.mark.parametrize(
    "guard",
    [
        "__import__('os').system('touch PWNED')",
        "L['x'].size()[0] ** 99999999999 > 1",
        "((9**81)**81)**81 > 1",
        "round(5, -10000000000) == 0",
        "math.sqrt(2) > 1",
        "torch._sym_sqrt(-1) == 1",
        "math.floor(1e308*1e308) == 1",
        "(-8)**0.5 > 1",
        "L['x'].size()[7] == 1",
        "L['z'].size()[0] == 1",
        "L['x'].size()[0] % 0 == 1",
        "L['x'].__class__ == 1",
        "(" * 100_000,
        "(" * 3_000,
        "1" + "+1" * 1_900 + " == 1901",
        "",
    ],
    ids=range(16),
)
def test_unknown_conditions(guard: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = program(node("aten.relu.default", self=X), guards=(guard,))
    x = np.ones((2, 3), np.float32)
    with pytest.raises(ProgramError, match=r"cannot be checked.*\[guard"):
        ran({}, x)
    unguarded = ran.with_options(guards=False).with_options(backend="scan")
    np.testing.assert_array_equal(unguarded({}, x), x)
    assert not list(tmp_path.iterdir())


def test_a_batch_of_one() -> None:
    shapes = {"x": (1, 8)}
    for guard in (
        "(L['x'].size()[1] % (L['x'].size()[0]*L['x'].size()[1])) != 0",
        "(L['x'].size()[0] % 2) == 0",
        "L['x'].size()[0] != 1",
        "L['x'].size()[1] != (8*L['x'].size()[0])",
    ):
        with pytest.raises(ProgramError, match="does not hold"):
            require_guards((guard,), shapes, {})


@pytest.mark.parametrize(
    ("guard", "bounds", "why"),
    [
        ("L['x'].size()[0] // 2 == 3", FREE, "s0: 6 to 7 (the condition"),
        ("max(1, (L['x'].size()[0] + 1) // 160) == 100", FREE, "s0: 15999 to 16158 (the condition"),
        ("5 - L['x'].size()[0] == 1", FREE, "x: f32[4, 3]\n  axis 0 of x is fixed: the condition"),
        ("L['x'].size()[1] == 3", FREE, "x: f32[s0, 3]\n  axis 1 of x is fixed: the condition"),
        ("L['x'].size()[0] % 4 == 0", FREE, "s0: 0 to any size\n"),
        ("L['x'].size()[0] - 4 >= 5", FREE, "s0: 9 to any size (the condition"),
        ("2*L['x'].size()[0] < 15", FREE, "s0: 0 to 7 (the condition"),
        ("3 < 10 - L['x'].size()[0]", FREE, "s0: 0 to 6 (the condition"),
        ("L['x'].size()[0] != 5", FREE, "s0: 0 to any size\n"),
        ("min(L['x'].size()[0], 5) == 5", FREE, "s0: 5 to any size (the condition"),
        ("(L['x'].size()[0] == 4) == 1", FREE, "s0: 0 to any size\n"),
        ("max(" + "0, " * 200 + "L['x'].size()[0]) == 5", FREE, "s0: 0 to any size\n"),
        # torch has applied the first and the second condition to its ranges.
        ("L['x'].size()[0] >= 5", (5, None), "s0: 5 to any size (the condition"),
        ("L['x'].size()[0] < 30", (2, 29), "s0: 2 to 29 (the condition"),
        ("L['x'].size()[0] != 1", (1, None), "s0: 2 to any size (the condition"),
        ("L['x'].size()[0] // 2 != 0", (1, None), "s0: 2 to any size (the condition"),
        ("2*L['x'].size()[0] != 1", (0, None), "s0: 0 to any size\n"),
        ("L['x'].size()[0] >= 4", (5, None), "s0: 5 to any size\n"),
    ],
)
def test_conditions_narrow_an_axis(guard: str, bounds: tuple[int | None, int | None], why: str) -> None:
    ran = program(node("aten.relu.default", self=X), shape=("s0", 3), ranges={"s0": bounds}, guards=(guard,))
    assert why in str(ran)


def test_a_loop_over_an_axis_is_named_with_what_would_free_it() -> None:
    guard = "L['x'].size()[0] == 6"
    for line, is_loop in (("model.py:7: for step in x:", True), ("model.py:7: y = format(x)", False)):
        ran = program(
            node("aten.relu.default", self=X), shape=("s0", 3), guards=(guard,), lines={guard: line}
        )
        assert ("torch._higher_order_ops.scan leaves the axis free" in str(ran)) is is_loop
