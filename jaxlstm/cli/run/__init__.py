"""``jaxlstm run FILE --input X... -o OUT``: run an LSTM or a program over files of sequences.

Each input file gives one output file, which appears under its name when it is whole.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxlstm._shared.progress import progress_bar
from jaxlstm._shared.table import count_of
from jaxlstm.cli.options import add_command, add_method, path_argument

if TYPE_CHECKING:
    from jaxlstm.cli.run.files import FileJob
    from jaxlstm_converters._batch_predictor import BatchPredictor


def add_parser(commands: Any) -> None:
    """Add the command's parser."""
    parser = add_command(
        commands,
        "run",
        run,
        help="run an LSTM or a .pt2 program over files of sequences",
        description="Run one LSTM of a PyTorch checkpoint, or a .pt2 program, over files of sequences. Each "
        "input file gives one output file, renamed into place when it is whole. The same command computes "
        "the missing files only: an output is done if its note names the same files (path, size, time of "
        "change) and options.",
        output="the file to write: .npz, .safetensors or .parquet, or .npy for a .npy input; or a folder, "
        "which exists or ends with /, for a file of the same name as each input",
    )
    parser.add_argument(
        "--input",
        type=path_argument,
        required=True,
        nargs="+",
        action="extend",
        metavar="X",
        help="files, patterns or folders: .npz or .safetensors with arrays (time, features); .npy with an "
        "array (sequences, time, features), or (time, features) for one long sequence; .parquet with a "
        "column of lists. For a program, a sequence is its input without the batch axis, and several inputs "
        "are columns of .parquet",
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
    add_method(parser)
    parser.add_argument("--states", action="store_true", help="also write h_n and c_n")
    parser.add_argument(
        "--column",
        default="inputs",
        help="the column of a parquet file (default: inputs; for a program with several inputs, their names)",
    )
    parser.add_argument(
        "--error-column",
        metavar="NAME",
        help="in .parquet output, write the error of a bad row to this column and go on; NaN and infinity "
        "make a row bad too",
    )
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="ray: workers of a Ray cluster compute whole files, which all its machines have under the same "
        "paths (default: local, one file after the other)",
    )
    parser.add_argument("--address", help="of the cluster, such as host:6379 (default: this machine)")
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="the number of workers, with a CPU each (default: all CPUs of the cluster)",
    )


def _run_here(jobs: Sequence[FileJob], predictor: BatchPredictor) -> int:
    """Compute one output after the other; return the number of sequences."""
    count = 0
    with progress_bar() as bar:
        for number, job in enumerate(jobs, 1):
            label = f" of {job.source.name} (file {number} of {len(jobs)})" if len(jobs) > 1 else ""
            count += job.compute(
                predictor, lambda done, total, step, label=label: bar(done, total, step + label)
            )
    return count


def run(args: argparse.Namespace) -> int:
    """Compute the output files that are missing."""
    from jaxlstm.cli.run.cluster import run_on_cluster
    from jaxlstm.cli.run.files import missing_files
    from jaxlstm.layer.config import positive_int
    from jaxlstm_converters._batch_predictor import BatchPredictor

    start = time.perf_counter()
    names = ("prefix", "column", "dtype", "cast", "states", "error_column")
    options = {name: getattr(args, name) for name in names} | ({"method": args.method} if args.method else {})
    if args.engine != "ray" and (args.address or args.workers):
        raise ValueError("--address and --workers need --engine ray")
    if args.workers is not None:
        positive_int("workers", args.workers)
    jobs, files_done = missing_files(args, options)
    predictor = BatchPredictor(args.checkpoint, batch_size=args.batch_size, **options)
    if args.engine == "ray" and jobs:
        count = run_on_cluster(jobs, predictor, args)
    else:
        count = _run_here(jobs, predictor)
    report = {
        "output": args.output,
        "files": len(jobs) + files_done,
        "files_done_before": files_done,
        "sequences_run_now": count,
        "seconds": time.perf_counter() - start,
    }
    suffix = f"; {count_of(files_done, 'file')} done before" if files_done else ""
    text = f"{args.output}: {count_of(count, 'sequence')} in {report['seconds']:.1f} s{suffix}"
    print(json.dumps(report, indent=2) if args.json else text)
    return 0
