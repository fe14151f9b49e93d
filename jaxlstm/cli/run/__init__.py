"""``jaxlstm run FILE --input X -o OUT``: run one LSTM over a file of sequences, resumable after a kill."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import Any

from jaxlstm._shared.atomic import require_replaceable
from jaxlstm._shared.progress import progress_bar
from jaxlstm.cli.arguments import add_command, load_selected, path_argument
from jaxlstm.cli.output import checkpoint_files, require_output

MAX_LENGTH = 1 << 20
"""Largest length of one sequence among several. A length bucket is compiled only if a sequence needs it."""


def add_parser(commands: Any) -> None:
    """Add the command's parser."""
    parser = add_command(
        commands,
        "run",
        run,
        help="run an LSTM over a file of sequences",
        description="Run one LSTM of a PyTorch checkpoint over the sequences of a file. Finished parts are "
        "stored in OUT.parts. After a kill, the same command resumes and writes the same output. "
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
        "features), or (time, features) for one long sequence; .parquet with a column of lists",
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
    from jaxlstm.cli.run import job, results
    from jaxlstm.cli.run.sequences import open_npy, open_sequences
    from jaxlstm.config import positive_int
    from jaxlstm.inference import runner
    from jaxlstm.inference.arguments import time_major

    source, output = Path(args.input), Path(args.output)
    for written in (output, job.parts_folder(output)):
        require_output(written, [source, *checkpoint_files(args.checkpoint)])
    params, config = load_selected(args)
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
    if sequences is not None and args.states and output.suffix != ".parquet":
        results.check_names(sequences.names)
    start = time.perf_counter()
    with job.Job(output, _identity(args, params, config, source)).opened() as current:
        with progress_bar() as bar:
            if sequences is None:
                job.run_long(current, compiled, long, args.cast, bar)  # type: ignore[arg-type]
            else:
                job.run_sequences(current, compiled, sequences, batch_size, args.cast, bar)
        results.assemble(current, args.states)
    stats = compiled.stats()
    report = {
        "output": str(output),
        "sequences": 1 if sequences is None else count,
        "steps_run_now": stats.valid_steps,
        "padding_waste": stats.padding_waste,
        "seconds": time.perf_counter() - start,
    }
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        print(
            f"{output}: {report['sequences']} sequences; ran {stats.valid_steps} steps in "
            f"{report['seconds']:.1f} s, {stats.padding_waste:.0%} of the computed steps were padding"
        )
    return 0


def _identity(args: argparse.Namespace, params: Any, config: Any, source: Path) -> dict[str, Any]:
    """Return everything on which the results depend.

    The input is identified by size and modification time, because hashing would read it a second time.
    """
    from jaxlstm.config_json import config_to_dict

    digest = hashlib.sha256()
    for name, array in params.items():
        digest.update(name.encode() + array.tobytes())
    status = source.stat()
    return {
        "weights": digest.hexdigest(),
        "config": config_to_dict(config),
        "input": [str(source.resolve()), status.st_size, status.st_mtime_ns],
        "options": [args.batch_size, args.dtype, args.cast, args.states, args.column],
    }
