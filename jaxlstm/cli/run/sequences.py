"""Files of sequences, read one at a time: .npz, .safetensors and .parquet hold many, .npy one or a block."""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

SUFFIXES = (".npz", ".npy", ".safetensors", ".parquet")


class Sequences(Protocol):
    """Sequences (time, features) in a fixed order, each with a name."""

    @property
    def names(self) -> Sequence[str]:
        """Their names, in that order."""
        ...

    def __len__(self) -> int:
        """How many there are."""
        ...

    def read(self, start: int) -> Iterator[tuple[str, np.ndarray]]:
        """Name and array of each from number ``start`` on; memory holds one at a time, or a row group."""
        ...


def open_sequences(path: Path, column: str = "inputs", features: int = 1) -> Sequences:
    """The sequences of a file, told by its suffix.

    Args:
      path: ``.npz`` and ``.safetensors``: an array (time, features) under each name. ``.npy``: an array
        (sequences, time, features). ``.parquet``: in each row a list of numbers, step after step.
      column: of a parquet file.
      features: of a time step; a parquet list does not say it.

    Raises:
      ValueError: another suffix.
      ModuleNotFoundError: a parquet file without pyarrow.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix == ".npz":
        return _Npz(path)
    if path.suffix == ".npy":
        return _Npy(path)
    if path.suffix == ".safetensors":
        return _Safetensors(path)
    if path.suffix == ".parquet":
        return _Parquet(path, column, features)
    raise ValueError(f"{path}: the suffix must be one of {', '.join(SUFFIXES)}")


def open_npy(path: Path) -> np.ndarray:
    """The array of a .npy file, mapped into memory and not read."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        raise ValueError(f"{path} is no .npy file of numbers: {error}") from error


class _Npz:
    def __init__(self, path: Path) -> None:
        if not zipfile.is_zipfile(path):
            raise ValueError(f"{path} is no .npz file")
        self.path = path
        with np.load(path, allow_pickle=False) as archive:
            self.names = list(archive.files)
        twice = [name for name, count in Counter(self.names).items() if count > 1]
        if twice:
            raise ValueError(f"{path} holds several arrays of the name {twice[0]!r}; rename them")

    def __len__(self) -> int:
        return len(self.names)

    def read(self, start: int) -> Iterator[tuple[str, np.ndarray]]:
        with np.load(self.path, allow_pickle=False) as archive:
            for name in self.names[start:]:
                try:
                    array = archive[name]
                except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                    raise ValueError(f"{self.path}: {name} cannot be read: {error}") from error
                if not isinstance(array, np.ndarray):  # the bytes of a member that is no .npy file
                    raise ValueError(f"{self.path}: {name} is no array of numbers")
                yield name, array


class _Npy:
    def __init__(self, path: Path) -> None:
        self.array = open_npy(path)
        if self.array.ndim != 3:
            raise ValueError(
                f"{path} must hold (sequences, time, features), or (time, features) for one long "
                f"sequence of a one-directional LSTM; got shape {self.array.shape}"
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
        from jaxlstm_converters.checkpoint import read_checkpoint

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
            self.file = parquet().ParquetFile(path)
        except ValueError as error:
            raise ValueError(f"{path} is no parquet file: {error}") from error
        self.column = column
        self.features = features
        if column not in self.file.schema_arrow.names:
            raise ValueError(
                f"{path} has no column {column!r}, but {self.file.schema_arrow.names}; see --column"
            )
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
        import pyarrow.compute

        row = f"row {index} of column {self.column!r}"
        flat = scalar.values if scalar.is_valid else None
        while flat is not None and not flat.null_count and _is_list(flat.type):
            lengths = pyarrow.compute.list_value_length(flat)  # type: ignore[attr-defined]
            sizes = lengths.unique().to_pylist()
            flat = flat.flatten()
            if not _is_list(flat.type) and set(sizes) - {self.features}:  # each list is a step
                raise ValueError(
                    f"{row} holds steps of {sorted(sizes)} numbers, wanted {self.features} in each"
                )
        if flat is None or flat.null_count:
            raise ValueError(f"{row} holds a null")
        numbers = flat.to_numpy(zero_copy_only=False)
        if numbers.size % self.features:
            raise ValueError(
                f"{row} holds {numbers.size} numbers, which is no multiple of the {self.features} "
                "features of a step"
            )
        return numbers.reshape(-1, self.features)


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def parquet() -> Any:
    """``pyarrow.parquet``, asked for by name where it is missing."""
    try:
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "parquet files need pyarrow: pip install 'jaxlstm[parquet]'"
        ) from None
    return pyarrow.parquet
