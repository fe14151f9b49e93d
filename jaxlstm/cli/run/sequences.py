"""Files of sequences: .npz, .safetensors, .npy and .parquet, read whole, and results in the same formats."""

from __future__ import annotations

import itertools
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxlstm._shared.files import require_exists
from jaxlstm._shared.imports import import_optional
from jaxlstm._shared.safetensors import safetensors_bytes
from jaxlstm.inference.columns import arrow_column
from jaxlstm_converters.checkpoint import read_checkpoint

SUFFIXES = (".npz", ".safetensors", ".npy", ".parquet")
WRITER = "jaxlstm run "
"""Start of the note in a file of results. A SHA-256 in hexadecimal digits follows."""
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time in a zip file. A constant, so that the bytes do not depend on the clock."""


def read_sequences(path: Path, column: str) -> dict[str, Any]:
    """Return the columns of a file, with a row for each sequence.

    A Parquet file has its own columns. Any other file has "name" and ``column``.

    Raises:
      ValueError: the suffix is unknown, the file is malformed, or it has no sequences.
      ModuleNotFoundError: it is a Parquet file, and pyarrow is not installed.
    """
    require_exists(path)
    if path.suffix == ".parquet":
        try:
            table = import_optional("pyarrow.parquet", "parquet").read_table(path)
        except ValueError as error:
            raise ValueError(f"{path} is not a parquet file: {error}") from error
        columns = dict(zip(table.column_names, table.columns, strict=True))
    elif path.suffix == ".npy":
        array = open_npy(path)
        columns = {"name": [str(index) for index in range(len(array))], column: list(array)}
    elif path.suffix in SUFFIXES:
        arrays = _read_npz(path) if path.suffix == ".npz" else dict(sorted(read_checkpoint(path).items()))
        columns = {"name": list(arrays), column: list(map(np.asarray, arrays.values()))}
    else:
        raise ValueError(f"{path}: the suffix must be one of {', '.join(SUFFIXES)}")
    if not columns or not len(next(iter(columns.values()))):
        raise ValueError(f"{path} has no sequences")
    return columns


def open_npy(path: Path) -> np.ndarray:
    """Return the array of a .npy file as a memory map."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        raise ValueError(f"{path} is not a .npy file of numbers: {error}") from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not a .npz file")
    arrays = {}
    with np.load(path, allow_pickle=False) as archive:
        for name, count in Counter(archive.files).items():
            try:
                arrays[name] = archive[name]
            except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                raise ValueError(f"{path}: {name} cannot be read: {error}") from error
            # NumPy names the members "a" and "a.npy" alike, and returns the bytes of a file of another kind.
            if count > 1 or isinstance(arrays[name], bytes):
                raise ValueError(f"{path}: {name} must be one array of numbers")
    return arrays


def write_results(
    path: Path, suffix: str, note: str, columns: Mapping[str, Any], blanks: Mapping[str, np.ndarray]
) -> None:
    """Write results in the format of a suffix.

    Args:
      path: the file.
      suffix: .parquet for all columns, with nested lists; .npz or .safetensors for an array under each name,
        or ``NAME.RESULT`` for each result but "outputs"; .npy for one array.
      note: the note of the run.
      columns: the columns. Without a column "name", the number of a row is its name.
      blanks: name of a result -> an empty array of the rank and dtype of its rows.
    """
    if suffix == ".parquet":
        import pyarrow

        made = {n: arrow_column(c, blanks[n]) if n in blanks else c for n, c in columns.items()}
        table = pyarrow.table(made, metadata={"writer": note})
        import_optional("pyarrow.parquet", "parquet").write_table(table, path)
    elif suffix == ".npy":
        write_npy(path, note, len(columns["outputs"]), (array[None] for array in columns["outputs"]))
    elif suffix == ".safetensors":
        with open(path, "wb") as file:
            file.writelines(safetensors_bytes(_named(columns, blanks), {"writer": note}))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            archive.comment = note.encode()
            for name, array in _named(columns, blanks).items():
                with archive.open(zipfile.ZipInfo(f"{name}.npy", EPOCH), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)


def write_npy(path: Path, note: str, count: int, pieces: Iterable[np.ndarray]) -> None:
    """Write ``count`` rows, given in pieces, as one array, and the note after it, which NumPy ignores."""
    rest = iter(pieces)
    first = next(rest)
    header = {"descr": np.lib.format.dtype_to_descr(first.dtype), "fortran_order": False}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {**header, "shape": (count, *first.shape[1:])})
        file.writelines(np.ascontiguousarray(piece).data for piece in itertools.chain([first], rest))
        file.write(note.encode())


def _named(columns: Mapping[str, Any], blanks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the name of each result -> its array."""
    named: dict[str, np.ndarray] = {}
    for result in blanks:
        for row, array in enumerate(columns[result]):
            name = str(columns["name"][row] if "name" in columns else row)
            full = name if result == "outputs" else f"{name}.{result}"
            if full in named:
                raise ValueError(
                    f"{full} would be the name of two results; rename a sequence, or write .parquet"
                )
            named[full] = array
    return named


def read_note(path: Path) -> str:
    """Return the note of a file of results, or "" for another file."""
    try:
        if path.suffix == ".parquet":
            metadata = import_optional("pyarrow.parquet", "parquet").read_schema(path).metadata or {}
            note = metadata.get(b"writer", b"").decode()
        elif path.suffix == ".safetensors":
            note = read_checkpoint(path).metadata.get("writer", "")
        else:
            with open(path, "rb") as file:
                file.seek(-len(WRITER) - 64, 2)
                note = file.read().decode()
    except (OSError, ValueError):
        return ""
    return note if note.startswith(WRITER) else ""
