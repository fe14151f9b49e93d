"""The source of every model of the tests holds and reads well; the page of the docs shows written files."""

from pathlib import Path

import pytest

from jaxlstm import from_module
from jaxlstm_converters.source._write_source import SourceFiles
from testing.zoo import PRACTICE
from tools.written_source import main, measure

PAGE = Path(__file__).parents[1] / "docs" / "written_source.md"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:from_module fixed parts")
def test_goals(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("name", ["voice detector", "translator"])
@pytest.mark.slow
def test_example_of_the_page(name: str) -> None:
    """Otherwise copy it: ``python -m tools.written_source --folder FOLDER NAME``."""
    program = from_module(PRACTICE[name].build(), PRACTICE[name].arguments(PRACTICE[name].example))
    assert SourceFiles.of(program, "model.py").text in PAGE.read_text()


@pytest.mark.slow
def test_one_model(tmp_path: Path) -> None:
    holds, problem, ratio, *others = measure("tagger", tmp_path)
    assert holds, problem
    assert all(others)
    assert 0.5 < ratio < 3
