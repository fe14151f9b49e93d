"""Fifteen models from their files, without torch: values and gradients at other sizes than at the export.

Each is exported with dynamic axes and saved. One process that cannot import torch runs all of them, jitted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from jaxlstm import from_module
from testing import programs_child
from testing.model_shapes import SHAPES
from testing.model_shapes.cases import file_stem, write_cases
from testing.processes import run_python

FAST = ("tied language model", "voice detector")
SLOW = tuple(name for name in SHAPES if name not in FAST)

Report = dict[str, list[dict[str, float]]]


def run_all(folder: Path, names: Sequence[str]) -> Report:
    """Export models, and return the errors of the programs at each of the other sizes."""
    for name in names:
        shape = SHAPES[name]
        module = shape.build()
        from_module(module, shape.arguments(shape.exported_at)).save(folder / f"{file_stem(name)}.pt2")
        write_cases(folder, name, shape, module)
    return json.loads(run_python(programs_child.__file__, folder, *map(file_stem, names)))


@pytest.fixture(scope="module")
def fast_report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return run_all(tmp_path_factory.mktemp("fast"), FAST)


@pytest.fixture(scope="module")
def slow_report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return run_all(tmp_path_factory.mktemp("slow"), SLOW)


def require_agreement(report: Report, name: str) -> None:
    cases = report[file_stem(name)]
    assert len(cases) == len(SHAPES[name].run_at)
    for errors in cases:
        assert errors["values"] < 2e-6
        assert errors["gradients"] < 2e-5


@pytest.mark.parametrize("name", FAST)
def test_fast_models(fast_report: Report, name: str) -> None:
    require_agreement(fast_report, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_other_models(slow_report: Report, name: str) -> None:
    require_agreement(slow_report, name)
