"""``jaxlstm run`` on a ``.pt2`` file: run the program over the sequences of a file, resumable after a kill.

Sequences of the same shape form batches. They are not padded, because a program may mix time steps outside
its LSTMs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxlstm._shared.atomic import require_replaceable
from jaxlstm._shared.progress import progress_bar
from jaxlstm._shared.table import count_of
from jaxlstm.cli.output import require_output
from jaxlstm.cli.program import refuse_options

if TYPE_CHECKING:
    from jaxlstm.cli.program.batches import Batches

SUFFIXES = (".npz", ".safetensors")


def run_program(args: argparse.Namespace) -> int:
    """Compute the parts that are missing, and assemble the output."""
    from jaxlstm.cli.program.batches import Batches
    from jaxlstm.cli.run import job, results
    from jaxlstm.cli.run.sequences import open_sequences
    from jaxlstm.layer.config import positive_int
    from jaxlstm_converters.pt2._load_program import load_program

    refuse_options(args, dtype="--dtype", states="--states")
    source, output = Path(args.input), Path(args.output)
    for written in (output, job.parts_folder(output)):
        require_output(written, [source, args.checkpoint])
    for option, path in (("--input", source), ("-o", output)):
        if path.suffix not in SUFFIXES:
            raise ValueError(f"{option} {path}: for a program the suffix must be {' or '.join(SUFFIXES)}")
    batch_size = positive_int("--batch-size", args.batch_size)
    batches = Batches(load_program(args.checkpoint), batch_size, cast=args.cast)
    sequences = open_sequences(source)
    if not len(sequences):
        raise ValueError(f"{source} has no sequences")
    require_replaceable(output, overwrite=args.overwrite, is_ours=results.is_output)
    results.check_names(sequences.names, batches.leaves)
    start = time.perf_counter()
    with job.Job(output, _identity(args, source)).opened() as current:
        with progress_bar() as bar:
            job.run_sequences(current, batches.compute, sequences, bar)
        results.assemble(current, batches.leaves)
    _show(args, output, len(sequences), batches, time.perf_counter() - start)
    return 0


def _identity(args: argparse.Namespace, source: Path) -> dict[str, Any]:
    """Return everything on which the results depend."""
    from jaxlstm.cli.run import job

    with open(args.checkpoint, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"program": digest, "input": job.input_identity(source), "options": [args.batch_size, args.cast]}


def _show(args: argparse.Namespace, output: Path, count: int, batches: Batches, seconds: float) -> None:
    report = {
        "output": str(output),
        "sequences": count,
        "sequences_run_now": batches.sequences,
        "batches": batches.batches,
        "shapes": len(batches.shapes),
        "results": list(batches.leaves.values()),
        "seconds": seconds,
    }
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        print(
            f"{output}: {count_of(count, 'sequence')}; ran {batches.sequences} in "
            f"{count_of(batches.batches, 'batch', 'batches')} of {count_of(len(batches.shapes), 'shape')} "
            f"in {seconds:.1f} s"
        )
