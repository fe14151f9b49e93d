"""Assemble the parts of a job into one file, a piece at a time and atomically."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxlstm._shared.atomic import write_atomically
from jaxlstm._shared.optional import import_optional
from jaxlstm._shared.safetensors import safetensors_bytes
from jaxlstm.cli.run.job import Job
from jaxlstm_converters.checkpoint import read_checkpoint

NAMED = (".npz", ".safetensors", ".parquet")
"""Suffixes of output files that store sequences by name, and their states."""
OUTPUTS = {"": "outputs"}
"""Suffix of the name of a sequence in the output -> name of the result in the parts."""
OUTPUTS_AND_STATES = {"": "outputs", ".h_n": "h_n", ".c_n": "c_n"}
WRITER = "jaxlstm run"
"""The comment or metadata by which :func:`is_output` recognizes an output."""
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time in a zip file. A constant, so that the bytes do not depend on the clock."""


def check_output(path: Path, source: Path, long: bool, states: bool, dtype: Any) -> None:
    """Raise, before anything is computed, if results cannot be written to ``path``.

    Args:
      path: the output.
      source: the input file.
      long: True if the input is one long sequence.
      states: True if h_n and c_n are written too.
      dtype: dtype of the results.
    """
    suffixes = NAMED if not long else ()
    if source.suffix == ".npy" and not states:
        suffixes += (".npy",)
    # NumPy and Arrow have no bfloat16.
    if dtype.name == "bfloat16":
        suffixes = tuple(suffix for suffix in suffixes if suffix == ".safetensors")
    kind = f"{'one long sequence' if long else 'sequences'} in {dtype}{' with --states' * states}"
    if not suffixes:
        raise ValueError(
            f"no output format stores {kind}; omit --states, and use bfloat16 only with a file of "
            "several sequences"
        )
    if path.suffix not in suffixes:
        raise ValueError(f"-o {path}: for {kind} the suffix must be {' or '.join(suffixes)}")
    if path.is_dir():
        raise IsADirectoryError(f"-o {path} is a folder; choose another path")
    if path.suffix == ".parquet":
        import_optional("pyarrow.parquet", "parquet")


def is_output(path: Path) -> bool:
    """Return True if :func:`assemble` wrote the file."""
    try:
        if path.suffix == ".npy":
            # Only headers too long for version 1 have version 2 if NumPy wrote the file.
            with open(path, "rb") as file:
                return np.lib.format.read_magic(file) == (2, 0)
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                return archive.comment == WRITER.encode()
        if path.suffix == ".parquet":
            metadata = import_optional("pyarrow.parquet", "parquet").read_schema(path).metadata or {}
            return metadata.get(b"writer") == WRITER.encode()
        return read_checkpoint(path).metadata.get("writer") == WRITER
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def check_names(names: Sequence[str], leaves: Mapping[str, str]) -> None:
    """Raise if two results would get the same name."""
    owners: dict[str, str] = {}
    for name in names:
        for suffix in leaves:
            owner = owners.setdefault(name + suffix, name)
            if owner != name:
                raise ValueError(
                    f"{name}{suffix} would be the name of a result of {owner!r} and of {name!r}; rename one "
                    "of these sequences, or write .parquet"
                )


def assemble(job: Job, leaves: Mapping[str, str] = OUTPUTS) -> None:
    """Write ``job.output`` from all parts.

    Args:
      job: the finished job.
      leaves: suffix of a name in the output -> result of each sequence, such as ``OUTPUTS_AND_STATES``.
    """
    path = job.output
    # A kill leaves this file in the folder of the parts, where the next run replaces it.
    temporary = job.folder / f"whole{path.suffix}"
    if path.suffix == ".npy":
        _write_npy(temporary, job)
    elif path.suffix == ".npz":
        _write_npz(temporary, _named_results(job, leaves))
    elif path.suffix == ".parquet":
        _write_parquet(temporary, job, leaves)
    else:
        write_atomically(temporary, safetensors_bytes(_Results(job, leaves), {"writer": WRITER}))
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _named_results(job: Job, leaves: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """Yield the name and the unread tensor of each result."""
    for part in job.parts():
        start = int(part.metadata["start"])
        for index, name in enumerate(json.loads(part.metadata["names"]), start):
            for suffix, leaf in leaves.items():
                yield name + suffix, part[f"{index}.{leaf}"]


class _Results:
    """The results in the form that ``safetensors_bytes`` takes. Each is read when it is written."""

    def __init__(self, job: Job, leaves: Mapping[str, str]) -> None:
        self.job = job
        self.leaves = leaves

    def items(self) -> Iterator[tuple[str, Any]]:
        return _named_results(self.job, self.leaves)

    def values(self) -> Iterator[Any]:
        return (tensor for _, tensor in self.items())


def _write_npz(path: Path, named: Iterator[tuple[str, Any]]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.comment = WRITER.encode()
        for name, tensor in named:
            entry = zipfile.ZipInfo(name + ".npy", EPOCH)
            with archive.open(entry, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(tensor), allow_pickle=False)


def _write_npy(path: Path, job: Job) -> None:
    """Write one array: (time, features) for a long sequence, else (sequences, time, features)."""
    is_long = "outputs" in next(job.parts())
    first = next(_outputs(job))
    count = max(int(part.metadata["stop"]) for part in job.parts())
    description = {
        "descr": np.lib.format.dtype_to_descr(first.dtype),
        "fortran_order": False,
        "shape": (count, *first.shape[is_long:]),
    }
    with open(path, "wb") as file:
        np.lib.format.write_array_header_2_0(file, description)
        for outputs in _outputs(job):
            file.write(np.ascontiguousarray(outputs).data)


def _outputs(job: Job) -> Iterator[np.ndarray]:
    """Yield the outputs of each sequence, or of each piece of one long sequence."""
    for part in job.parts():
        numbers = range(int(part.metadata["start"]), int(part.metadata["stop"]))
        names = ["outputs"] if "outputs" in part else [f"{number}.outputs" for number in numbers]
        yield from (np.asarray(part[name]) for name in names)


def _write_parquet(path: Path, job: Job, leaves: Mapping[str, str]) -> None:
    """Write a row for each sequence: name, length, and outputs, h_n and c_n as flat lists."""
    import pyarrow

    writer = None
    for part in job.parts():
        start = int(part.metadata["start"])
        names = json.loads(part.metadata["names"])
        rows = range(start, start + len(names))
        columns: dict[str, Any] = {"name": names}
        columns["length"] = [part[f"{index}.outputs"].shape[0] for index in rows]
        for leaf in leaves.values():
            columns[leaf] = [np.asarray(part[f"{index}.{leaf}"]).ravel() for index in rows]
        table = pyarrow.table(columns, metadata={"writer": WRITER})
        writer = writer or import_optional("pyarrow.parquet", "parquet").ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()
