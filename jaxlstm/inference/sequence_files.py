"""Files of sequences as columns of a batch, and results in the same formats.

In .npz and .safetensors files, each array is a sequence; in .npy files, each row of the array. Parquet files
have a column of nested lists. Results have a note: in the metadata, or at the end of .npz and .npy files.
"""

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
from jaxlstm._shared.safetensors import read_safetensors, safetensors_bytes
from jaxlstm.inference.columns import arrow_column


def read_sequences(path: Path, column: str) -> dict[str, Any]:
    """Return the columns of a file, with a row for each sequence.

    A Parquet file has its own columns. Any other file has "name" and ``column``.
    """
    require_exists(path)
    if path.suffix not in READERS:
        raise ValueError(f"{path}: the suffix must be one of {', '.join(READERS)}")
    data = READERS[path.suffix](path)
    columns = data if path.suffix == ".parquet" else {"name": list(data), column: list(data.values())}
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


def _read_parquet(path: Path) -> dict[str, Any]:
    try:
        table = import_optional("pyarrow.parquet", "parquet").read_table(path)
    except ValueError as error:
        raise ValueError(f"{path} is not a parquet file: {error}") from error
    return dict(zip(table.column_names, table.columns, strict=True))


READERS = {
    ".npz": _read_npz,
    ".safetensors": lambda path: dict(sorted(read_safetensors(path).items())),
    ".npy": lambda path: {str(row): array for row, array in enumerate(open_npy(path))},
    ".parquet": _read_parquet,
}
"""Suffix -> reader of the arrays by name, or of the columns of a Parquet file."""


def write_results(
    path: Path, suffix: str, note: str, columns: Mapping[str, Any], blanks: Mapping[str, np.ndarray]
) -> None:
    """Write results by suffix: columns (.parquet), arrays by name (.npz, .safetensors), one (.npy)."""
    if suffix == ".parquet":
        import pyarrow

        arrow_columns = {n: arrow_column(c, blanks[n]) if n in blanks else c for n, c in columns.items()}
        table = pyarrow.table(arrow_columns, metadata={"writer": note})
        import_optional("pyarrow.parquet", "parquet").write_table(table, path)
    elif suffix == ".npy":
        write_npy(path, note, len(columns["outputs"]), (array[None] for array in columns["outputs"]))
    elif suffix == ".safetensors":
        with open(path, "wb") as file:
            file.writelines(safetensors_bytes(_named(columns, blanks), {"writer": note}))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.comment = note.encode()
            for name, array in _named(columns, blanks).items():
                # The time of an entry is 1980, so that the bytes do not depend on the clock.
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)


def write_npy(path: Path, note: str, count: int, pieces: Iterable[np.ndarray]) -> None:
    """Write ``count`` rows, given in pieces, as one array, and the note after it, which NumPy ignores."""
    remaining = iter(pieces)
    first = next(remaining)
    header = {"descr": np.lib.format.dtype_to_descr(first.dtype), "fortran_order": False}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {**header, "shape": (count, *first.shape[1:])})
        file.writelines(np.ascontiguousarray(piece).data for piece in itertools.chain([first], remaining))
        file.write(note.encode())


def _named(columns: Mapping[str, Any], blanks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the name of each result -> its array."""
    arrays_by_name: dict[str, np.ndarray] = {}
    for result in blanks:
        for row, array in enumerate(columns[result]):
            name = str(columns["name"][row] if "name" in columns else row)
            full_name = name if result == "outputs" else f"{name}.{result}"
            if full_name in arrays_by_name:
                raise ValueError(
                    f"{full_name} would be the name of two results; rename a sequence, or write .parquet"
                )
            arrays_by_name[full_name] = array
    return arrays_by_name
