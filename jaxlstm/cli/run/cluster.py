"""The engine "ray": workers of a cluster compute whole files, with Ray Data's progress bar and retries."""

import argparse
import logging
import os
import socket
import sys
from collections.abc import Sequence
from typing import Any

from jaxlstm._shared.imports import import_optional
from jaxlstm._shared.progress import no_progress
from jaxlstm.cli.run.files import FileJob
from jaxlstm.cli.user_code import import_user_code
from jaxlstm_converters._batch_predictor import BatchPredictor

ANSWER_SECONDS = 10
"""How long a cluster may take to answer."""
HTTP2_START = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""The first bytes of an HTTP/2 client: the preface, and an empty frame of settings, whose type is 4."""


class FileWorker:
    """A worker, which has one CPU and loads the model with its first file."""

    def __init__(self, predictor: BatchPredictor, operators: Sequence[str]) -> None:
        for source in operators:
            import_user_code("--operators", source)
        self._predictor = predictor

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Compute a file; return an error, because Ray adds many lines to a raised one."""
        try:
            return {"sequences": row["job"].compute(self._predictor, no_progress), "error": None}
        except (ValueError, TypeError, OSError, ModuleNotFoundError) as error:
            return {"sequences": 0, "error": error}


def run_on_cluster(jobs: Sequence[FileJob], predictor: BatchPredictor, args: argparse.Namespace) -> int:
    """Compute the outputs and return the number of sequences."""
    if ":" in (args.address or ""):
        _require_cluster(args.address)
    ray, data = import_optional("ray", "ray"), import_optional("ray.data", "ray")
    ray.init(args.address, log_to_driver=False, logging_level=logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    data.DataContext.get_current().enable_progress_bars = sys.stderr.isatty()
    # A worker may run in another folder. A file is a block, so that a retry computes one file.
    items = [{"job": FileJob(job.source.absolute(), job.output.absolute(), job.note)} for job in jobs]
    workers = args.workers or int(ray.cluster_resources().get("CPU", 1))
    results = data.from_items(items, override_num_blocks=len(items)).map(
        FileWorker,
        fn_constructor_args=(predictor, [os.path.abspath(source) for source in args.operators]),
        num_cpus=1,
        # An idle worker ends, so that one of a lost node can start in its place.
        compute=data.ActorPoolStrategy(min_size=1, max_size=min(workers, len(items))),
    )
    count = 0
    try:
        for result in results.iter_rows():
            if result["error"] is not None:
                raise result["error"]
            count += result["sequences"]
    finally:
        ray.shutdown()
    return count


def _require_cluster(address: str) -> None:
    """Raise if no cluster answers at an address; Ray would wait for minutes.

    Ray uses gRPC, hence HTTP/2, in which a server starts with a frame of settings too.
    """
    host, _, port = address.rpartition("/")[2].rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS) as server:
            if os.environ.get("RAY_USE_TLS", "0") == "0":  # with TLS, only Ray has the keys
                server.sendall(HTTP2_START)
                if server.recv(4)[3:] != b"\4":
                    raise ConnectionError("the server there is not a Ray cluster")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConnectionError(f"--address {address}: no cluster answers: {reason}") from error
