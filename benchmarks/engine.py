"""Throughput in Ray Data: BatchPredictor, torch in the same engine, and ``Runner.map`` without an engine.

``python -m benchmarks.engine`` prints a line for each side: time steps per second, and the overhead of the
engine, which is the time of a worker between two batches. The rates of the workers are added. The inputs are
in the object store before, and results go there without them; this process reads the times there. The start
of the workers and their first batch do not count. A job computes the sequences ``--repeats`` times, because
Ray takes longer for results until their memory is used for the second time.
"""

import argparse
import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute

import jaxlstm
from jaxlstm._shared.imports import import_optional
from jaxlstm.inference.columns import RowInput, arrow_column

CONFIG = jaxlstm.LSTMConfig(64, 128)
BATCH = 1024


class TorchLoop:
    """torch.nn.LSTM over one row after the other, between the same Arrow columns."""

    def __init__(self, path: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._tensor, self._no_grad = torch.tensor, torch.no_grad
        self._lstm = torch.nn.LSTM(CONFIG.input_size, CONFIG.hidden_size)
        self._lstm.load_state_dict(torch.load(path))
        self._input = RowInput("inputs", ("time", CONFIG.input_size), np.dtype(np.float32))

    def __call__(self, table: Any) -> Any:
        with self._no_grad():
            rows = (self._tensor(self._input.array(row)) for row in table["inputs"])
            outputs = [self._lstm(row)[0].numpy() for row in rows]
        return table.drop_columns("inputs").append_column(
            "outputs", arrow_column(outputs, np.empty((0, 0), np.float32))
        )


class Timed:
    """A worker whose rows have the times at which their batch started and ended."""

    def __init__(self, is_torch: bool, path: str, threads: int) -> None:
        ours = jaxlstm.inference.BatchPredictor(path, threads=threads, keep_inputs=False)
        self._call, self._worker = TorchLoop(path, threads) if is_torch else ours, time.time_ns()

    def __call__(self, table: Any) -> Any:
        start = time.time()
        table = self._call(table)
        for name, value in (("start", start), ("end", time.time()), ("worker", self._worker)):
            table = table.append_column(name, pyarrow.array([value] * len(table)))
        return table


def rate_in_engine(dataset: Any, *, workers: int, **options: Any) -> str:
    """Return time steps per second and the median overhead of a batch."""
    kwargs = {"batch_size": BATCH, "batch_format": "pyarrow", "num_cpus": 1}
    kwargs["compute"] = import_optional("ray.data", "ray").ActorPoolStrategy(size=workers)
    results = dataset.map_batches(Timed, fn_constructor_kwargs=options, **kwargs)
    keys = ["worker", "start", "end"]
    tables = results.iter_batches(batch_size=None, batch_format="pyarrow")
    parts = [table.group_by(keys).aggregate([("steps", "sum")]) for table in tables]
    batches = pyarrow.concat_tables(parts).group_by(keys).aggregate([("steps_sum", "sum")]).sort_by("start")
    rate, gaps = 0.0, []
    for worker in batches["worker"].unique():
        rows = batches.filter(pyarrow.compute.field("worker") == worker)
        starts, ends, steps = (rows[name].to_numpy() for name in ("start", "end", "steps_sum_sum"))
        gaps += [*(starts[1:] - ends[:-1])]
        rate += steps[1:].sum() / (ends[-1] - ends[0])
    return f"{rate:,.0f} steps/s, {1e3 * statistics.median(gaps):.1f} ms between batches"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sequences", type=int, default=16384, help="of 5 to 2,000 steps (default: 16384)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    import torch

    rng = np.random.default_rng(0)
    lengths = np.exp(rng.uniform(np.log(5), np.log(2000), args.sequences)).astype(int)
    arrays = [rng.standard_normal((n, CONFIG.input_size)).astype(np.float32) for n in lengths]
    column = arrow_column(arrays, np.empty((0, 0), np.float32))
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "lstm.pt"))
        torch.save(torch.nn.LSTM(CONFIG.input_size, CONFIG.hidden_size).state_dict(), path)
        ray, data = import_optional("ray", "ray"), import_optional("ray.data", "ray")
        ray.init(num_cpus=4, log_to_driver=False, logging_level=logging.ERROR)
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        data.DataContext.get_current().enable_progress_bars = False
        table = pyarrow.table({"steps": lengths, "inputs": column})
        tables = [table.slice(start, BATCH) for start in range(0, len(table), BATCH)]
        dataset = data.from_arrow(tables).materialize()
        job = dataset.union(*[dataset] * (args.repeats - 1))
        lstm = jaxlstm.load(path, batch_first=False, dropout=0.0)
        runner = jaxlstm.inference.compile(*lstm, max_length=2000, max_batch=32)
        for _ in range(args.rounds):
            for is_torch, workers, threads in ((False, 2, 1), (False, 1, 2), (True, 2, 1)):
                options = {"is_torch": is_torch, "path": path, "threads": threads}
                side = f"{'torch' if is_torch else 'jaxlstm'}, {workers} x {threads} threads"
                print(side, rate_in_engine(job, workers=workers, **options), sep=": ", flush=True)
            start = time.perf_counter()
            runner.map(arrays, progress=False)
            print(f"Runner.map: {lengths.sum() / (time.perf_counter() - start):,.0f} steps/s", flush=True)


if __name__ == "__main__":
    main()
