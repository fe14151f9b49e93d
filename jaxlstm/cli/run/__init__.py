"""``jaxlstm run CKPT --input X -o OUT``: an LSTM over a file of sequences, of any size, resumable."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import Any

from jaxlstm._shared.progress import progress_bar
from jaxlstm.cli.selection import load_selected

MAX_LENGTH = 1 << 20
"""Steps of one sequence among many; a bucket of them is compiled only if there is such a sequence."""


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "run",
        help="run an LSTM over a file of sequences",
        description="Run one LSTM of a checkpoint over the sequences of a file. Finished parts are kept in "
        "OUT.parts: killed and run again, it goes on where it was, to the same output.",
    )
    parser.add_argument("checkpoint", metavar="CKPT", help="the file to read")
    parser.add_argument(
        "--input",
        required=True,
        metavar="X",
        help=".npz or .safetensors: arrays (time, features); .npy: (sequences, time, features), or one long "
        "(time, features); .parquet: a column of lists",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help=".npz, .safetensors, .parquet; .npy of .npy",
    )
    parser.add_argument("--prefix", help="which LSTM, where there are several: see inspect")
    parser.add_argument(
        "--batch-size", type=int, default=32, help="sequences at a time (default 32)"
    )
    parser.add_argument("--dtype", help="run in this dtype; default: the checkpoint's")
    parser.add_argument("--cast", action="store_true", help="round inputs of another dtype to it")
    parser.add_argument("--states", action="store_true", help="write h_n and c_n too")
    parser.add_argument("--column", default="inputs", help="of a parquet file (default inputs)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run, batch_first=None, dropout=None)


def run(args: argparse.Namespace) -> int:
    """Run what is left to run, and put the output together."""
    from jaxlstm.cli.run import job, results
    from jaxlstm.cli.run.sequences import open_npy, open_sequences
    from jaxlstm.inference import runner
    from jaxlstm.inference.arguments import positive, time_major

    source, output = Path(args.input), Path(args.output)
    params, config = load_selected(args)
    config = time_major(config)
    batch_size = positive("--batch-size", args.batch_size)
    long = None
    if source.suffix == ".npy" and not config.bidirectional:
        array = open_npy(source)
        long = array if array.ndim == 2 else None
    sequences = None if long is not None else open_sequences(source, args.column, config.input_size)
    if not len(sequences if sequences is not None else long):  # type: ignore[arg-type]
        raise ValueError(f"{source} holds nothing to run")
    compiled = runner.compile(
        params, config, max_length=MAX_LENGTH, max_batch=batch_size, dtype=args.dtype
    )
    read = source, Path(args.checkpoint)
    results.check_output(output, read, long is not None, args.states, compiled.dtype)
    if args.states and output.suffix != ".parquet":
        results.check_names(sequences.names)  # type: ignore[union-attr]
    began = time.perf_counter()
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
        "sequences": 1 if sequences is None else len(sequences),
        "steps_run_now": stats.valid_steps,
        "padding_waste": stats.padding_waste,
        "seconds": time.perf_counter() - began,
    }
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        print(
            f"{output}: {report['sequences']} sequences; ran {stats.valid_steps} steps in "
            f"{report['seconds']:.1f} s, {stats.padding_waste:.0%} of the computed ones padding"
        )
    return 0


def _identity(args: argparse.Namespace, params: Any, config: Any, source: Path) -> dict[str, Any]:
    """What the results depend on; the input by size and time, since hashing it would read it twice."""
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
