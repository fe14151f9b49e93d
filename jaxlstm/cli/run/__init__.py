"""``jaxlstm run FILE --input X -o OUT``: run an LSTM or a program over a file of sequences.

A run that was killed resumes.
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
from jaxlstm.cli.arguments import add_command, load_selected, path_argument
from jaxlstm.cli.output import checkpoint_files, require_output
from jaxlstm.cli.program import takes_program
from jaxlstm.cli.program.run import run_program

if TYPE_CHECKING:
    from jaxlstm.inference.engine import Stats

MAX_LENGTH = 1 << 20
"""Largest length of one sequence among several. A length bucket is compiled only if a sequence needs it."""


def add_parser(commands: Any) -> None:
    """Add the command's parser."""
    parser = add_command(
        commands,
        "run",
        run,
        help="run an LSTM or a .pt2 program over a file of sequences",
        description="Run one LSTM of a PyTorch checkpoint, or a .pt2 program with one input, over the "
        "sequences of a file; --prefix selects one LSTM of a program. Finished parts are stored in "
        "OUT.parts. After a kill, the same command resumes and writes the same output. "
        "Exit status: 0 for success, 2 for bad input.",
        overwrite=True,
        output="the file to write: .npz, .safetensors or .parquet, or .npy for a .npy input; it must not be "
        "an input",
    )
    parser.add_argument(
        "--input",
        type=path_argument,
        required=True,
        metavar="X",
        help=".npz or .safetensors with arrays (time, features); .npy with an array (sequences, time, "
        "features), or (time, features) for one long sequence; .parquet with a column of lists. For a "
        "program: .npz or .safetensors with one input without its batch axis under each name",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=32,
        metavar="N",
        help="the number of sequences in a batch (default: 32)",
    )
    parser.add_argument("--dtype", help="the dtype to run in (default: the dtype of the checkpoint)")
    parser.add_argument("--cast", action="store_true", help="round inputs of another dtype to this dtype")
    parser.add_argument("--states", action="store_true", help="also write h_n and c_n")
    parser.add_argument("--column", default="inputs", help="the column of a parquet file (default: inputs)")


def run(args: argparse.Namespace) -> int:
    """Compute the parts that are missing, and assemble the output."""
    from jaxlstm.cli.run import job, lstm, results
    from jaxlstm.cli.run.sequences import open_npy, open_sequences
    from jaxlstm.inference import runner
    from jaxlstm.inference.arguments import time_major
    from jaxlstm.layer.config import positive_int

    if takes_program(args):
        return run_program(args)
    source, output = Path(args.input), Path(args.output)
    for written in (output, job.parts_folder(output)):
        require_output(written, [source, *checkpoint_files(args.checkpoint)])
    params, config, *_ = load_selected(args)
    config = time_major(config)
    batch_size = positive_int("--batch-size", args.batch_size)
    long = sequences = None
    if source.suffix == ".npy" and not config.bidirectional:
        array = open_npy(source)
        long = array if array.ndim == 2 else None
    if long is None:
        sequences = open_sequences(source, args.column, config.input_size)
    count = len(long) if sequences is None else len(sequences)  # type: ignore[arg-type]
    if not count:
        raise ValueError(f"{source} has no sequences")
    compiled = runner.compile(params, config, max_length=MAX_LENGTH, max_batch=batch_size, dtype=args.dtype)
    results.check_output(output, source, long is not None, args.states, compiled.dtype)
    require_replaceable(output, overwrite=args.overwrite, is_ours=results.is_output)
    leaves = results.OUTPUTS_AND_STATES if args.states else results.OUTPUTS
    if sequences is not None and args.states and output.suffix != ".parquet":
        results.check_names(sequences.names, leaves)
    start = time.perf_counter()
    with job.Job(output, _identity(args, params, config, source)).opened() as current:
        with progress_bar() as bar:
            if sequences is None:
                lstm.run_long(current, compiled, long, args.cast, bar)  # type: ignore[arg-type]
            else:
                compute = lstm.compute_lstm(compiled, batch_size, args.cast)
                job.run_sequences(current, compute, sequences, bar)
        results.assemble(current, leaves)
    _show(args, output, 1 if sequences is None else count, compiled.stats(), time.perf_counter() - start)
    return 0


def _identity(args: argparse.Namespace, params: Any, config: Any, source: Path) -> dict[str, Any]:
    """Return everything on which the results depend."""
    from jaxlstm.cli.run import job
    from jaxlstm.layer.config_json import config_to_dict

    digest = hashlib.sha256()
    for name, array in params.items():
        digest.update(name.encode() + array.tobytes())
    return {
        "weights": digest.hexdigest(),
        "config": config_to_dict(config),
        "input": job.input_identity(source),
        "options": [args.batch_size, args.dtype, args.cast, args.states, args.column],
    }


def _show(args: argparse.Namespace, output: Path, count: int, stats: Stats, seconds: float) -> None:
    if args.json:
        report = {
            "output": str(output),
            "sequences": count,
            "steps_run_now": stats.valid_steps,
            "padding_waste": stats.padding_waste,
            "seconds": seconds,
        }
        print(json.dumps(report, indent=2))
    else:
        print(
            f"{output}: {count_of(count, 'sequence')}; ran {stats.valid_steps} steps in {seconds:.1f} s, "
            f"{stats.padding_waste:.0%} of the computed steps were padding"
        )
