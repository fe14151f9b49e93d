"""Files of sequences: .npz, .safetensors, .npy and .parquet in; results in the same formats out."""

from __future__ import annotations

import itertools
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxlstm._shared.optional import import_optional
from jaxlstm._shared.paths import require_exists
from jaxlstm._shared.safetensors import safetensors_bytes
from jaxlstm.inference.columns import arrow_column
from jaxlstm_converters.checkpoint import read_checkpoint

WRITER = "jaxlstm run "
"""Start of the note in a file of results. A SHA-256 in hexadecimal digits follows."""
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time in a zip file. A constant, so that the bytes do not depend on the clock."""


def open_npy(path: Path) -> np.ndarray:
    """Return the array of a .npy file as a memory map."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        raise ValueError(f"{path} is not a .npy file of numbers: {error}") from error


def read_npy(path: Path, column: str) -> dict[str, Any]:
    """Return the columns "name" and ``column`` of an array (sequences, ...)."""
    array = open_npy(path)
    return {"name": [str(index) for index in range(len(array))], column: list(array)}


def read_npz(path: Path, column: str) -> dict[str, Any]:
    """Return the columns "name" and ``column`` of an array for each name."""
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not a .npz file")
    arrays = []
    with np.load(path, allow_pickle=False) as archive:
        for name, count in Counter(archive.files).items():
            if count > 1:
                raise ValueError(f"{path} has several arrays named {name!r}; rename them")
            try:
                arrays.append(archive[name])
            except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                raise ValueError(f"{path}: {name} cannot be read: {error}") from error
            if isinstance(arrays[-1], bytes):  # NumPy returns the bytes of a member that is not a .npy file.
                raise ValueError(f"{path}: {name} is not an array of numbers")
        return {"name": archive.files, column: arrays}


def read_safetensors(path: Path, column: str) -> dict[str, Any]:
    """Return the columns "name" and ``column`` of a tensor for each name."""
    tensors = read_checkpoint(path)
    return {"name": sorted(tensors), column: [np.asarray(tensors[name]) for name in sorted(tensors)]}


def read_parquet(path: Path, column: str) -> dict[str, Any]:
    """Return all columns."""
    del column
    try:
        table = import_optional("pyarrow.parquet", "parquet").read_table(path)
    except ValueError as error:
        raise ValueError(f"{path} is not a parquet file: {error}") from error
    return dict(zip(table.column_names, table.columns, strict=True))


READERS: dict[str, Callable[[Path, str], dict[str, Any]]] = {
    ".npz": read_npz,
    ".safetensors": read_safetensors,
    ".npy": read_npy,
    ".parquet": read_parquet,
}


def read_sequences(path: Path, column: str) -> dict[str, Any]:
    """Return the columns of a file, in which each row is a sequence.

    Raises:
      ValueError: the suffix is unknown, the file is malformed, or it has no sequences.
      ModuleNotFoundError: it is a Parquet file, and pyarrow is not installed.
    """
    require_exists(path)
    if path.suffix not in READERS:
        raise ValueError(f"{path}: the suffix must be one of {', '.join(READERS)}")
    columns = READERS[path.suffix](path, column)
    if not columns or not len(next(iter(columns.values()))):
        raise ValueError(f"{path} has no sequences")
    return columns


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
        parquet = import_optional("pyarrow.parquet", "parquet")
        import pyarrow

        made = {n: arrow_column(c, blanks[n]) if n in blanks else c for n, c in columns.items()}
        parquet.write_table(pyarrow.table(made, metadata={"writer": note}), path)
    elif suffix == ".npy":
        write_npy(path, note, len(columns["outputs"]), (array[None] for array in columns["outputs"]))
    else:
        tensors = _named(columns, blanks)
        if suffix == ".safetensors":
            with open(path, "wb") as file:
                file.writelines(safetensors_bytes(tensors, {"writer": note}))
            return
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            archive.comment = note.encode()
            for name, array in tensors.items():
                with archive.open(zipfile.ZipInfo(f"{name}.npy", EPOCH), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)


def write_npy(path: Path, note: str, count: int, pieces: Iterator[np.ndarray]) -> None:
    """Write the concatenation of arrays with ``count`` rows together, and the note after the data.

    NumPy ignores what follows the data.
    """
    with open(path, "wb") as file:
        first = next(pieces)
        shape, descr = (count, *first.shape[1:]), np.lib.format.dtype_to_descr(first.dtype)
        header = {"descr": descr, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for piece in itertools.chain([first], pieces):
            file.write(np.ascontiguousarray(piece).data)
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
                    f"{full} would be the name of two results; rename one of the sequences, or write .parquet"
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
