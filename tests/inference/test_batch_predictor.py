"""``BatchPredictor``: columns in, columns out, in any process; bad rows; padding of programs."""

import pickle
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import jaxlstm
from jaxlstm import ProgramError
from jaxlstm.inference import BatchPredictor
from jaxlstm.inference.columns import RowError
from jaxlstm.inference.random_inputs import random_inputs
from testing import exported
from testing.command import assert_outputs, sequences, write_checkpoint
from testing.graphs import X, node, program
from testing.modules import module_of
from testing.processes import run_python

DEMO = Path(__file__).parents[2] / "examples" / "demo.pt2"
ROWS = list(sequences().values())
pyarrow = pytest.importorskip("pyarrow", reason="a batch may be an Arrow table")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path)


def nested(rows: list[Any]) -> Any:
    lists = [row.tolist() if isinstance(row, np.ndarray) else row for row in rows]
    return pyarrow.array(lists, pyarrow.list_(pyarrow.list_(pyarrow.float32())))


COLUMNS: dict[str, Callable[[list[np.ndarray]], Any]] = {
    "arrays": list,
    "object array": lambda rows: np.array([*rows, None], object)[:-1],
    "Python lists": lambda rows: [row.tolist() for row in rows],
    "Arrow lists of steps": nested,
    "flat Arrow lists": lambda rows: pyarrow.array([row.ravel() for row in rows]),
    "one array": lambda rows: np.stack([row[:1] for row in rows]),
    "Arrow tensors, one step": lambda rows: pyarrow.FixedShapeTensorArray.from_numpy_ndarray(
        np.stack([row[:1] for row in rows])
    ),
    "chunks": lambda rows: pyarrow.chunked_array([nested(rows)[:4], nested(rows)[4:]]),
}


@pytest.mark.parametrize("form", COLUMNS)
def test_forms_of_columns(form: str, checkpoint: Path) -> None:
    """Order and other columns are kept; an Arrow table gives nested lists of the same numbers."""
    rows = [row[:1] for row in ROWS] if "one" in form else ROWS
    batch = {"id": list(range(9)), "x": COLUMNS[form](ROWS), "z": ["z"] * 9}
    predictor = BatchPredictor(checkpoint, column="x", states=True, batch_size=4)
    result = predictor(batch)
    assert list(result) == ["id", "x", "z", "outputs", "h_n", "c_n"]
    assert result["id"] == batch["id"]
    for k, row in enumerate(rows):
        assert_outputs(str(k), result["outputs"][k], row)
        np.testing.assert_array_equal(result["h_n"][k][-1], result["outputs"][k][-1])
        assert result["c_n"][k].shape == (2, 8)
    if "Arrow" in form or form == "chunks":
        table = predictor(pyarrow.table(batch))
        assert table.column_names == list(result)
        short = BatchPredictor(checkpoint, column="x", states=True, batch_size=4, keep_inputs=False)
        assert short(pyarrow.table(batch)) == table.drop_columns("x")
        assert list(short(batch)) == ["id", "z", "outputs", "h_n", "c_n"]
        for name in ("outputs", "c_n"):
            for actual, expected in zip(table[name].to_pylist(), result[name], strict=True):
                np.testing.assert_array_equal(np.array(actual, np.float32), expected)


BAD_ROWS: list[tuple[Any, str]] = [
    (None, "is null"),
    (np.zeros((2, 4), np.float32), "has shape (2, 4), expected (time, 5), not empty"),
    (np.zeros((0, 5), np.float32), "has shape (0, 5)"),
    (np.zeros((2, 5)), "is float64 and the model takes float32; pass cast=True"),
    (np.zeros((2, 5), bool), "holds bool, expected real numbers"),
    ([[1.0], [1.0, 2.0]], "is not an array of numbers"),
    (nested([[[1, 2], [3]]])[0], "has lists of different lengths, [1, 2]"),
    (nested([[None]])[0], "contains a null"),
    (nested([None])[0], "is null"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD_ROWS)
def test_bad_rows(bad: Any, reason: str, checkpoint: Path) -> None:
    """They raise, or go to the error column and the others are computed."""
    batch = {"inputs": [ROWS[0], bad, ROWS[1]]}
    with pytest.raises(RowError) as caught:
        BatchPredictor(checkpoint)(batch)
    assert str(caught.value).startswith(f"row 1 of column 'inputs' {reason}")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    result = BatchPredictor(checkpoint, error_column="error")(batch)
    assert result["error"][1].startswith(f"column 'inputs' {reason}")
    assert (result["error"][0], result["error"][2], result["outputs"][1]) == (None, None, None)
    for k in (0, 2):
        assert_outputs(str(k), result["outputs"][k], batch["inputs"][k])


def test_rows_with_nan(checkpoint: Path) -> None:
    """They are computed as in torch, unless there is an error column."""
    table = pyarrow.table({"inputs": nested([ROWS[0], ROWS[1] * np.nan])})
    assert np.isnan(BatchPredictor(checkpoint)(table)["outputs"].to_pylist()[1]).all()
    result = BatchPredictor(checkpoint, error_column="error")(table)
    assert result["outputs"].is_null().to_pylist() == [False, True]
    assert result["error"].to_pylist() == [None, "column 'inputs' has NaN or infinity"]
    null = pyarrow.table({"inputs": nested([ROWS[0], None])})
    only_bad = BatchPredictor(checkpoint, error_column="error")(null.slice(1))
    assert only_bad["error"].to_pylist() == ["column 'inputs' is null"]
    assert only_bad.schema == result.schema  # files of an engine need equal schemas


def test_arguments(checkpoint: Path) -> None:
    batch: dict[str, Any] = {"inputs": ROWS[:1]}
    cases: tuple[tuple[dict[str, Any], Any, str], ...] = (
        (
            {},
            {**batch, "id": [1, 2]},
            "columns of a batch must have equal lengths, got {'inputs': 1, 'id': 2}",
        ),
        ({"column": "x"}, batch, r"no column 'x' .* pass column= with one of \['inputs'\]"),
        ({}, {**batch, "outputs": [1]}, "column 'outputs' already"),
        ({}, ROWS, "batch must be a dict of columns or an Arrow table, got list"),
        ({"column": {"inputs": "x"}}, batch, "column must be a str for an LSTM"),
        ({"prefix": "no"}, batch, "prefix"),
        ({"error_column": "outputs"}, batch, "error_column is 'outputs', the name of a result"),
    )
    for options, given, message in cases:
        with pytest.raises((TypeError, ValueError), match=message):
            BatchPredictor(checkpoint, **options)(given)
    with pytest.raises(ValueError, match="states and dropout cannot be used"):
        BatchPredictor(DEMO, states=True, dropout=0.0)(batch)
    with pytest.raises(ProgramError, match="column 'text' is int64 and holds values outside of int32"):
        BatchPredictor(DEMO, column="text")({"text": [np.array([2**32 + 1])]})
    with pytest.raises(ValueError, match="threads must be greater than zero"):
        BatchPredictor(checkpoint, threads=0)
    assert BatchPredictor(checkpoint)({"inputs": []})["outputs"].shape == (0,)


def test_bfloat16_in_arrow(checkpoint: Path) -> None:
    """Arrow has no such dtype: the results are the same numbers in float32."""
    predictor = BatchPredictor(checkpoint, dtype="bfloat16", cast=True)
    expected = predictor({"inputs": ROWS})["outputs"]
    outputs = predictor(pyarrow.table({"inputs": nested(ROWS)}))["outputs"]
    assert outputs.type.value_type.value_type == pyarrow.float32()
    for actual, array in zip(outputs.to_pylist(), expected, strict=True):
        np.testing.assert_array_equal(np.array(actual, np.float32), array.astype(np.float32))


def test_threads_load_the_model_once(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, load, loaded = BatchPredictor(checkpoint), BatchPredictor._load, []

    def counted(self: BatchPredictor) -> Any:
        loaded.append(load(self))
        return loaded[-1]

    monkeypatch.setattr(BatchPredictor, "_load", counted)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(predictor, [{"inputs": ROWS}] * 4))
    assert loaded == [predictor.model]


CHILD = """
import pickle, sys
import numpy as np
predictor = pickle.loads(bytes.fromhex(sys.argv[1]))
result = predictor({"inputs": [np.ones((3, 5), np.float32)]})
print(result["outputs"][0].tobytes().hex(), predictor.model.runner._engine.settings.threads)
"""


def test_pickle(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A predictor is a path and options, also after it was used, and takes the threads of its process."""
    monkeypatch.chdir(tmp_path)
    predictor = BatchPredictor("m.safetensors")
    expected = predictor({"inputs": [np.ones((3, 5), np.float32)]})["outputs"][0]
    pickled = pickle.dumps(predictor)
    assert len(pickled) < 1000
    monkeypatch.chdir("/")
    threads = pickle.dumps(BatchPredictor(checkpoint, threads=3))
    cases: list[tuple[bytes, dict[str, Any], str]] = [
        (pickled, {"OMP_NUM_THREADS": "1"}, "1"),
        (threads, {}, "3"),
    ]
    for data, variables, count in cases:
        outputs, actual = run_python("-c", CHILD, data.hex(), **variables).split()
        assert bytes.fromhex(outputs) == expected.tobytes()
        assert actual == count


DYNAMIC = {0: exported.AUTO, 1: exported.AUTO}


def test_ranges_of_free_axes(tmp_path: Path) -> None:
    """A row out of range is a bad row. A smaller batch than the program takes is filled."""
    shapes = {0: torch.export.Dim("b", min=4, max=64), 1: torch.export.Dim("t", min=4, max=20)}
    exported.save(tmp_path / "m.pt2", nn.Linear(3, 4), torch.randn(5, 6, 3), dynamic_shapes=(shapes,))
    for pad in (False, None):
        predictor = BatchPredictor(tmp_path / "m.pt2", pad=pad, error_column="error")
        result = predictor({"inputs": [np.zeros((n, 3), np.float32) for n in (20, 21, 3)]})
        assert result["outputs"][0].shape == (20, 4)
        axis = predictor.model.inputs[0].shape[0]
        bounds = (f"has 21 in axis {axis}, expected at most 20", f"has 3 in axis {axis}, expected at least 4")
        assert list(result["error"]) == [None, *(f"column 'inputs' {bound}" for bound in bounds)]


def test_a_fixed_batch_that_another_axis_equals(tmp_path: Path) -> None:
    """h_n of two layers and two rows has the shape (2, 2, 4)."""
    exported.save(tmp_path / "m.pt2", nn.LSTM(3, 4, 2, batch_first=True), torch.randn(2, 5, 3))
    with pytest.raises(
        ValueError, match=r"several axes have the size 2 of the batch; export the program with"
    ):
        BatchPredictor(tmp_path / "m.pt2")({"inputs": [np.zeros((5, 3), np.float32)]})


def test_program_with_several_inputs(tmp_path: Path) -> None:
    x, scale = torch.randn(2, 4, 3), torch.randn(2, 3)
    residual = module_of(
        lambda _, x, scale: {"sum": x + scale[:, None], "first": x[:, 0], "double": 2 * x}  # not sorted
    )
    jaxlstm.from_module(residual, (x, scale)).save(tmp_path / "m.pt2")
    rows = [row[:, :3] for row in ROWS]
    batch = {"scale": [row[0] for row in rows], "x": nested(rows)}
    renamed = {"a": batch["x"], "b": batch["scale"]}
    for columns, given in (("inputs", batch), ({"x": "a", "scale": "b"}, renamed)):
        result = BatchPredictor(tmp_path / "m.pt2", column=columns)(given)
        assert list(result) == [*given, "sum", "first", "double"]
        for k, row in enumerate(rows):
            np.testing.assert_allclose(result["sum"][k], row + row[0], atol=1e-6)
            np.testing.assert_array_equal(result["first"][k], row[0])
            np.testing.assert_array_equal(result["double"][k], 2 * row)
    with pytest.raises(ValueError, match=r"column must be a dict from each of the inputs \['x', 'scale'\]"):
        BatchPredictor(tmp_path / "m.pt2", column={"x": "a"})(renamed)


def test_free_axes_of_random_inputs_have_sizes_of_their_own() -> None:
    """``verify_model`` resizes axes of equal size together, so no two axes are equal by accident."""
    relu = node("aten.relu.default", shape=("a", "b", "c", 3, 5, 6), self=X)
    arrays = random_inputs(program(relu, shape=("a", "b", "c", 3, 5, 6)))
    assert arrays is not None
    (array,) = arrays
    assert array.shape[3:] == (3, 5, 6)
    assert len(set(array.shape)) == 6


@pytest.mark.parametrize(
    ("forward", "shapes"),
    [
        # Another size would be another program, of another export.
        (lambda _, x: x if x.shape[1] % 4 else x.reshape(x.shape[0], -1, 4), [(2, 8)]),
        # No size is free of the others.
        (lambda _, x, y: x.repeat(1, 2) + y, [(4, 5), (4, 10)]),
    ],
)
def test_random_inputs_of_the_sizes_of_the_example(forward: Any, shapes: list[tuple[int, ...]]) -> None:
    """If a program refuses all other sizes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = jaxlstm.from_module(module_of(forward), tuple(map(torch.ones, shapes)))
    arrays = random_inputs(exported)
    assert arrays is not None
    assert [array.shape for array in arrays] == shapes
