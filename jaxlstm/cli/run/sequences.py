"""Input files of sequences: .npz, .safetensors, .parquet and .npy, read one sequence at a time."""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxlstm._shared.optional import import_optional
from jaxlstm._shared.paths import require_exists
from jaxlstm_converters.checkpoint import read_checkpoint


class Sequences(Protocol):
    """Sequences (time, features) in a fixed order, each with a name."""

    @property
    def names(self) -> Sequence[str]:
        """The names, in order."""
        ...

    def __len__(self) -> int:
        """Return the number of sequences."""
        ...

    def read(self, start: int) -> Iterator[tuple[str, np.ndarray]]:
        """Yield name and array of each sequence from index ``start``. Memory holds one, or one row group."""
        ...


def open_sequences(path: Path, column: str = "inputs", features: int = 1) -> Sequences:
    """Open a file of sequences, in the format of its suffix.

    Args:
      path: ``.npz`` or ``.safetensors`` with an array (time, features) under each name, ``.npy`` with an
        array (sequences, time, features), or ``.parquet`` with a list of numbers in each row.
      column: the column of a parquet file.
      features: features of a time step, which a parquet list does not record.

    Raises:
      ValueError: the suffix is unknown, or the file is malformed.
      ModuleNotFoundError: the file is a parquet file, and pyarrow is not installed.
    """
    require_exists(path)
    if path.suffix == ".parquet":
        return _Parquet(path, column, features)
    kinds = {".npz": _Npz, ".npy": _Npy, ".safetensors": _Safetensors}
    if path.suffix not in kinds:
        raise ValueError(f"{path}: the suffix must be one of {', '.join([*kinds, '.parquet'])}")
    return kinds[path.suffix](path)


def open_npy(path: Path) -> np.ndarray:
    """Return the array of a .npy file as a memory map."""
    require_exists(path)
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        raise ValueError(f"{path} is not a .npy file of numbers: {error}") from error


class _Npz:
    def __init__(self, path: Path) -> None:
        if not zipfile.is_zipfile(path):
            raise ValueError(f"{path} is not a .npz file")
        self.path = path
        with np.load(path, allow_pickle=False) as archive:
            self.names = list(archive.files)
        duplicates = [name for name, count in Counter(self.names).items() if count > 1]
        if duplicates:
            raise ValueError(f"{path} has several arrays named {duplicates[0]!r}; rename them")

    def __len__(self) -> int:
        return len(self.names)

    def read(self, start: int) -> Iterator[tuple[str, np.ndarray]]:
        with np.load(self.path, allow_pickle=False) as archive:
            for name in self.names[start:]:
                try:
                    array = archive[name]
                except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                    raise ValueError(f"{self.path}: {name} cannot be read: {error}") from error
                # NumPy returns the bytes of a member that is not a .npy file.
                if not isinstance(array, np.ndarray):
                    raise ValueError(f"{self.path}: {name} is not an array of numbers")
                yield name, array


class _Npy:
    def __init__(self, path: Path) -> None:
        self.array = open_npy(path)
        if self.array.ndim != 3:
            raise ValueError(
                f"{path} must have shape (sequences, time, features), or (time, features) for one long "
                f"sequence of a unidirectional LSTM; got {self.array.shape}"
            )

    def __len__(self) -> int:
        return len(self.array)

    @property
    def names(self) -> Sequence[str]:
        return [str(index) for index in range(len(self))]

    def read(self, start: int) -> Iterator[tuple[str, np.ndarray]]:
        for index in range(start, len(self.array)):
            yield str(index), np.array(self.array[index])


class _Safetensors:
    def __init__(self, path: Path) -> None:
        self.tensors = read_checkpoint(path)
        self.names = sorted(self.tensors)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, start: int) -> Iterator[tuple[str, np.ndarray]]:
        for name in self.names[start:]:
            yield name, np.asarray(self.tensors[name])


class _Parquet:
    def __init__(self, path: Path, column: str, features: int) -> None:
        try:
            self.file = import_optional("pyarrow.parquet", "parquet").ParquetFile(path)
        except ValueError as error:
            raise ValueError(f"{path} is not a parquet file: {error}") from error
        self.column = column
        self.features = features
        columns = self.file.schema_arrow.names
        if column not in columns:
            raise ValueError(f"{path} has no column {column!r}; choose one of {columns} by --column")
        kind = self.file.schema_arrow.field(column).type
        if not _is_list(kind):
            raise ValueError(f"column {column!r} of {path} must hold lists of numbers, got {kind}")

    def __len__(self) -> int:
        return self.file.metadata.num_rows

    @property
    def names(self) -> Sequence[str]:
        return [str(index) for index in range(len(self))]

    def read(self, start: int) -> Iterator[tuple[str, np.ndarray]]:
        index = 0
        for group in range(self.file.num_row_groups):
            rows = self.file.metadata.row_group(group).num_rows
            if index + rows > start:
                values = self.file.read_row_group(group, columns=[self.column])[self.column]
                for offset in range(max(start - index, 0), rows):
                    yield str(index + offset), self._array(index + offset, values[offset])
            index += rows

    def _array(self, index: int, scalar: Any) -> np.ndarray:
        """Return a list of numbers, or a list of steps, as (time, features)."""
        import pyarrow.compute

        row = f"row {index} of column {self.column!r}"
        flat = scalar.values if scalar.is_valid else None
        while flat is not None and not flat.null_count and _is_list(flat.type):
            lengths = pyarrow.compute.list_value_length(flat)  # type: ignore[attr-defined]
            sizes = lengths.unique().to_pylist()
            flat = flat.flatten()
            # In the innermost lists each list is a step.
            if not _is_list(flat.type) and set(sizes) - {self.features}:
                raise ValueError(f"{row} must have {self.features} numbers in each step, got {sorted(sizes)}")
        if flat is None or flat.null_count:
            raise ValueError(f"{row} contains a null")
        numbers = flat.to_numpy(zero_copy_only=False)
        if numbers.size % self.features:
            raise ValueError(
                f"{row} must have a multiple of {self.features} numbers, the features of a step; "
                f"got {numbers.size}"
            )
        return numbers.reshape(-1, self.features)


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
