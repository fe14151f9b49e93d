"""The source of every model of the tests holds and reads well; the page of the docs shows written files."""

from pathlib import Path

import pytest

from jaxlstm import from_module
from jaxlstm_converters.source._write_source import SourceFiles
from tools.written_source import main, measure, models

PAGE = Path(__file__).parents[1] / "docs" / "written_source.md"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:from_module fixed parts")
def test_goals(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("name", ["voice detector", "translator with attention"])
@pytest.mark.slow
def test_example_of_the_page(name: str) -> None:
    """Otherwise copy it: ``python -m tools.written_source --folder FOLDER NAME``."""
    ((_, module, args),) = models([name])
    assert SourceFiles.of(from_module(module, args), "model.py").text in PAGE.read_text()


def test_one_model(tmp_path: Path) -> None:
    ((name, module, args),) = models(["tagger"])
    measured = measure(name, module, args, tmp_path)
    assert measured.holds, measured.problem
    assert measured.named
    assert measured.idiomatic
    assert measured.ratio is not None
    assert 0.5 < measured.ratio < 3
