"""The files of a run: which outputs are missing, and how one is computed."""

from __future__ import annotations

import argparse
import glob
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlstm._shared.files import require_exists, require_folder_of, require_replaceable, written_whole
from jaxlstm._shared.progress import Progress
from jaxlstm.cli.options import checkpoint_files, require_output
from jaxlstm.cli.run.sequences import (
    SUFFIXES,
    WRITER,
    open_npy,
    read_note,
    read_sequences,
    write_npy,
    write_results,
)
from jaxlstm.inference.columns import RowError
from jaxlstm.inference.rows import LSTMRows
from jaxlstm_converters._batch_predictor import BatchPredictor

CHUNK_STEPS = 1 << 16
"""Steps of one long sequence that are in memory at a time."""
BLOCK_BATCHES = 8
"""Batches that are sorted by length together, between two reports of progress."""


class FileJob(NamedTuple):
    """An input file, its output, and the note that the output gets."""

    source: Path
    output: Path
    note: str

    def absolute(self) -> FileJob:
        """Return the job with absolute paths."""
        return FileJob(self.source.absolute(), self.output.absolute(), self.note)

    def run(self, predictor: BatchPredictor, progress: Progress) -> int:
        """Compute the output and return the number of its sequences.

        Raises:
          ValueError: the input is malformed, or the format of the output cannot hold the results.
        """
        model, array = predictor.model, open_npy(self.source) if self.source.suffix == ".npy" else None
        causal = model if isinstance(model, LSTMRows) and not model.runner.config.bidirectional else None
        if array is not None and array.ndim == 2 and causal is not None:
            self._require_suffix(predictor, "one long sequence", {".npy"})
            with written_whole(self.output) as path:
                write_npy(path, self.note, len(array), self._long_outputs(causal, array, progress))
            return 1
        self._require_suffix(predictor, "sequences", {*SUFFIXES} - ({".npy"} if array is None else set()))
        columns = read_sequences(self.source, model.inputs[0].column)
        results = self._results(predictor, columns, progress)
        with written_whole(self.output) as path:
            write_results(path, self.output.suffix, self.note, results, predictor.blanks)
        return len(next(iter(columns.values())))

    def _require_suffix(self, predictor: BatchPredictor, kind: str, suffixes: set[str]) -> None:
        """Raise if the format of the output cannot hold the results."""
        dtypes = {blank.dtype.name for blank in predictor.blanks.values()}
        if [*predictor.blanks] != ["outputs"]:  # a .npy file holds one array
            kind, suffixes = f"{kind} with results {[*predictor.blanks]}", suffixes - {".npy"}
        for dtype, able in (("object", {".parquet"}), ("bfloat16", {".parquet", ".safetensors"})):
            suffixes = suffixes & able if dtype in dtypes else suffixes
        if self.output.suffix not in suffixes:
            wanted = (
                f"the suffix must be {' or '.join(sorted(suffixes))}" if suffixes else "there is no format"
            )
            raise ValueError(f"-o {self.output}: for {kind} in {', '.join(sorted(dtypes))}, {wanted}")

    def _results(
        self, predictor: BatchPredictor, columns: dict[str, Any], progress: Progress
    ) -> dict[str, Any]:
        """Return the columns of a Parquet file, or "name" for other files, and the results."""
        count, is_table = len(next(iter(columns.values()))), self.source.suffix == ".parquet"
        added: dict[str, list[Any]] = {name: [] for name in predictor.blanks}
        block = BLOCK_BATCHES * predictor.batch_size
        for start in range(0, count, block):
            progress(start, count, "sequences")
            try:
                results = predictor({name: column[start : start + block] for name, column in columns.items()})
            except RowError as error:
                row = start + error.row
                place = (
                    f"row {row} of column {error.column!r}"
                    if is_table
                    else f"sequence {columns['name'][row]}"
                )
                raise ValueError(f"{self.source}: {place} {error.reason}") from error
            except ValueError as error:
                raise ValueError(f"{self.source}: {error}") from error
            for name, column in added.items():
                column.extend(results[name])
        progress(count, count, "sequences")
        return {**(columns if is_table else {"name": columns["name"]}), **added}

    def _long_outputs(
        self, model: LSTMRows, sequence: np.ndarray, progress: Progress
    ) -> Iterator[np.ndarray]:
        """Yield the outputs of one sequence (time, features) in chunks of its steps."""
        stream = model.runner.stream(1)
        for start in range(0, max(len(sequence), 1), CHUNK_STEPS):
            progress(start, len(sequence), "steps")
            try:
                piece = model.inputs[0].array(np.array(sequence[start : start + CHUNK_STEPS]))
            except ValueError as error:
                raise ValueError(f"{self.source}: the sequence {error}") from error
            yield stream(piece)


def missing_files(args: argparse.Namespace, options: Mapping[str, Any]) -> tuple[list[FileJob], int]:
    """Return the outputs to compute, and the number of outputs that are done.

    Raises:
      ValueError, OSError: a file is missing, or an output must not be written.
    """
    sources, checkpoint = _sources(args.input), checkpoint_files(args.checkpoint)
    jobs = []
    for source, output in zip(sources, _outputs(args.output, sources), strict=True):
        require_output(output, [*sources, *checkpoint])
        identity = json.dumps([[_identity(path) for path in (source, *checkpoint)], options], sort_keys=True)
        note = WRITER + hashlib.sha256(identity.encode()).hexdigest()
        if args.overwrite or read_note(output) != note:
            require_replaceable(output, overwrite=args.overwrite, is_ours=lambda path: bool(read_note(path)))
            jobs.append(FileJob(source, output, note))
    return jobs, len(sources) - len(jobs)


def _sources(given: list[str]) -> list[Path]:
    """Return the input files, each once."""
    sources: list[Path] = []
    for text in given:
        path, found = Path(text), [Path(text)]
        if path.is_dir():
            found = sorted(child for child in path.iterdir() if child.suffix in SUFFIXES)
        elif not path.exists() and glob.has_magic(text):
            found = sorted(map(Path, glob.glob(text)))
        if not found:
            raise FileNotFoundError(f"--input {text}: there is no such file of {', '.join(SUFFIXES)}")
        sources += found
    return list(dict.fromkeys(sources))


def _outputs(text: str, sources: list[Path]) -> list[Path]:
    """Return the output of each input; create the folder of outputs."""
    output = Path(text)
    if not output.is_dir() and not text.endswith(("/", os.sep)):
        if len(sources) > 1:
            raise ValueError(f"-o {text} must be a folder for {len(sources)} input files; end it with /")
        return [output]
    name, count = Counter(source.name for source in sources).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{count} inputs are named {name}, and their results would have one name in {text}")
    require_folder_of(output)
    output.mkdir(exist_ok=True)
    return [output / source.name for source in sources]


def _identity(path: Path) -> list[Any]:
    """Return path, size and time of change of a file; a hash would need to read it."""
    require_exists(path)
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]
