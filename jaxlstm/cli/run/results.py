"""The parts of a run put together into one file, a piece at a time and atomically."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxlstm.cli.run.job import Job
from jaxlstm.cli.run.sequences import parquet

NAMED = (".npz", ".safetensors", ".parquet")
"""Suffixes of outputs that hold sequences under their names, and the states."""
STATES = ("h_n", "c_n")
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip file knows: bytes must not depend on the clock."""


def check_output(path: Path, read: Sequence[Path], long: bool, states: bool, dtype: Any) -> None:
    """Raise, before anything is computed, if results cannot be written to ``path``.

    Args:
      path: the output.
      read: the input and the checkpoint, which it must not replace.
      long: whether the input is one long sequence.
      states: whether h_n and c_n are to be written too.
      dtype: of the results.
    """
    source = read[0]
    suffixes = NAMED if not long else ()
    if source.suffix == ".npy" and not states:
        suffixes += (".npy",)
    if dtype.name == "bfloat16":  # for which NumPy and Arrow have no name
        suffixes = tuple(suffix for suffix in suffixes if suffix == ".safetensors")
    what = f"{'one long sequence' if long else 'sequences'} in {dtype}{' with --states' * states}"
    if not suffixes:
        raise ValueError(
            f"no file holds the outputs of {what}: leave --states out, and bfloat16 to many sequences"
        )
    if path.suffix not in suffixes:
        raise ValueError(f"-o {path}: for {what} the suffix must be {' or '.join(suffixes)}")
    if path.is_dir():
        raise IsADirectoryError(f"-o {path}: is a folder, wanted a file")
    for other in read:
        if path.exists() and path.samefile(other):
            raise ValueError(f"-o {path} would replace {other}, which is read; take another name")
    if path.suffix == ".parquet":
        parquet()


def check_names(names: Sequence[str]) -> None:
    """Raise if the states of one sequence would get the name of another's outputs."""
    taken = set(names)
    for name in names:
        for leaf in STATES:
            if f"{name}.{leaf}" in taken:
                raise ValueError(
                    f"--states: {name}.{leaf} is the name both of a sequence and of a state of {name!r}; "
                    "rename one of these sequences, or write .parquet"
                )


def assemble(job: Job, states: bool) -> None:
    """Write ``job.output`` from all parts; ``states`` adds h_n and c_n."""
    path = job.output
    temporary = job.folder / f"whole{path.suffix}"  # in the folder: a kill leaves nothing elsewhere
    if path.suffix == ".npy":
        _write_npy(temporary, job)
    elif path.suffix == ".npz":
        _write_npz(temporary, _named(job, states))
    elif path.suffix == ".parquet":
        _write_parquet(temporary, job, states)
    else:
        from jaxlstm._shared.atomic import write_atomically
        from jaxlstm._shared.safetensors import safetensors_bytes

        write_atomically(temporary, safetensors_bytes(_Results(job, states), {}))
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _named(job: Job, states: bool) -> Iterator[tuple[str, Any]]:
    """Name and tensor, not read yet, of each result: outputs have the input's name, states an end as well."""
    for part in job.parts():
        start = int(part.metadata["start"])
        for index, name in enumerate(json.loads(part.metadata["names"]), start):
            yield name, part[f"{index}.outputs"]
            if states:
                for leaf in STATES:
                    yield f"{name}.{leaf}", part[f"{index}.{leaf}"]


class _Results:
    """Results for ``safetensors_bytes``: each is read when its turn comes, and no part stays open."""

    def __init__(self, job: Job, states: bool) -> None:
        self.job = job
        self.states = states

    def items(self) -> Iterator[tuple[str, Any]]:
        return _named(self.job, self.states)

    def values(self) -> Iterator[Any]:
        return (tensor for _, tensor in self.items())


def _write_npz(path: Path, named: Iterator[tuple[str, Any]]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, tensor in named:
            entry = zipfile.ZipInfo(name + ".npy", EPOCH)
            with archive.open(entry, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(tensor), allow_pickle=False)


def _write_npy(path: Path, job: Job) -> None:
    """All outputs one after another: (time, features) of one sequence, or (sequences, time, features)."""
    shape: list[int] = []
    for outputs, stacked in _blocks(job):
        if not shape:
            shape = [0, *outputs.shape[0 if stacked else 1 :]]
        shape[0] += 1 if stacked else len(outputs)
    with open(path, "wb") as file:
        dtype = next(_blocks(job))[0].dtype
        header = io.BytesIO()
        np.lib.format.write_array_header_2_0(
            header,
            {
                "descr": np.lib.format.dtype_to_descr(dtype),
                "fortran_order": False,
                "shape": tuple(shape),
            },
        )
        file.write(header.getvalue())
        for outputs, _ in _blocks(job):
            file.write(np.ascontiguousarray(outputs).data)


def _blocks(job: Job) -> Iterator[tuple[np.ndarray, bool]]:
    """Each array of outputs, and whether it is a whole sequence of many."""
    for part in job.parts():
        if "outputs" in part:
            yield np.asarray(part["outputs"]), False
        else:
            start, stop = (int(part.metadata[key]) for key in ("start", "stop"))
            for index in range(start, stop):
                yield np.asarray(part[f"{index}.outputs"]), True


def _write_parquet(path: Path, job: Job, states: bool) -> None:
    """A row for each sequence: name, length, outputs (and h_n, c_n) as flat lists, step after step."""
    import pyarrow

    leaves = ("outputs", *STATES) if states else ("outputs",)
    writer = None
    for part in job.parts():
        start = int(part.metadata["start"])
        names = json.loads(part.metadata["names"])
        rows = range(start, start + len(names))
        columns: dict[str, Any] = {"name": names}
        columns["length"] = [part[f"{index}.outputs"].shape[0] for index in rows]
        for leaf in leaves:
            columns[leaf] = [np.asarray(part[f"{index}.{leaf}"]).ravel() for index in rows]
        table = pyarrow.table(columns)
        writer = writer or parquet().ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()
