"""The files of a run: which outputs are missing, and how one is computed."""

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
from jaxlstm._shared.imports import import_optional
from jaxlstm._shared.progress import Progress
from jaxlstm.cli.options import checkpoint_files, require_output
from jaxlstm.inference.columns import RowError
from jaxlstm.inference.rows import LSTMRows
from jaxlstm.inference.sequence_files import READERS, open_npy, read_sequences, write_npy, write_results
from jaxlstm_converters._batch_predictor import BatchPredictor
from jaxlstm_converters.checkpoint import read_checkpoint

CHUNK_STEPS = 1 << 16
"""Steps of one long sequence that are in memory at a time."""
WRITER = "jaxlstm run "
"""Start of the note in a file of results. A SHA-256 in hexadecimal digits follows."""


class FileJob(NamedTuple):
    """An input file, its output, and the note that the output gets."""

    source: Path
    output: Path
    note: str

    def compute(self, predictor: BatchPredictor, progress: Progress) -> int:
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
        self._require_suffix(predictor, "sequences", {*READERS} - ({".npy"} if array is None else set()))
        columns = read_sequences(self.source, model.inputs[0].column)
        base_columns = columns if self.source.suffix == ".parquet" else {"name": columns["name"]}
        try:
            added = predictor.added(columns, progress)
        except ValueError as error:
            reason = str(error)
            if isinstance(error, RowError) and base_columns is not columns:
                reason = f"sequence {columns['name'][error.row]} {error.reason}"
            raise ValueError(f"{self.source}: {reason}") from error
        with written_whole(self.output) as path:
            write_results(path, self.output.suffix, self.note, {**base_columns, **added}, predictor.blanks)
        return len(next(iter(columns.values())))

    def _require_suffix(self, predictor: BatchPredictor, kind: str, suffixes: set[str]) -> None:
        """Raise if the format of the output cannot hold the results."""
        dtypes = {blank.dtype.name for blank in predictor.blanks.values()}
        if [*predictor.blanks] != ["outputs"]:  # a .npy file holds one array
            kind, suffixes = f"{kind} with results {[*predictor.blanks]}", suffixes - {".npy"}
        for dtype, able in (("object", {".parquet"}), ("bfloat16", {".parquet", ".safetensors"})):
            suffixes = suffixes & able if dtype in dtypes else suffixes
        if self.output.suffix not in suffixes:
            raise ValueError(
                f"-o {self.output}: {kind} in {', '.join(sorted(dtypes))} can be written to "
                f"{' or '.join(sorted(suffixes)) or 'no format'}"
            )

    def _long_outputs(
        self, model: LSTMRows, sequence: np.ndarray, progress: Progress
    ) -> Iterator[np.ndarray]:
        """Yield the outputs of one sequence (time, features) in chunks of its steps."""
        stream = model.runner.stream(1)
        for start in range(0, max(len(sequence), 1), CHUNK_STEPS):
            progress(start, len(sequence), "steps")
            try:
                chunk = model.inputs[0].array(np.array(sequence[start : start + CHUNK_STEPS]))
            except ValueError as error:
                raise ValueError(f"{self.source}: the sequence {error}") from error
            yield stream(chunk)


def missing_files(args: argparse.Namespace, options: Mapping[str, Any]) -> tuple[list[FileJob], int]:
    """Return the outputs to compute, and the number of outputs that are done."""
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


def _sources(inputs: list[str]) -> list[Path]:
    """Return the input files, each once."""
    sources: list[Path] = []
    for text in inputs:
        path, matches = Path(text), [Path(text)]
        if path.is_dir():
            matches = sorted(child for child in path.iterdir() if child.suffix in READERS)
        elif not path.exists() and glob.has_magic(text):
            matches = sorted(map(Path, glob.glob(text)))
        if not matches:
            raise FileNotFoundError(f"--input {text}: there is no such file ({', '.join(READERS)})")
        sources += matches
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
