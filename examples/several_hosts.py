"""Train an LSTM over the devices of several processes or hosts.

Every process runs this program and sees all devices. The batch is split along the axis "data" of the mesh,
the hidden units along "hidden". ``jaxlstm.inference.shard`` places the weights.

To try it on one machine, start two processes in two terminals:

    python examples/several_hosts.py --coordinator localhost:12355 --processes 2 --process 0
    python examples/several_hosts.py --coordinator localhost:12355 --processes 2 --process 1

On several hosts, give the name of the first host, whose port must be reachable from the others:

    python examples/several_hosts.py --coordinator host0:12355 --processes 4 --process 0   # 1, 2, 3 elsewhere

On Slurm and Cloud TPU pods, JAX detects the processes:

    srun --nodes 4 --ntasks-per-node 1 python examples/several_hosts.py --detect
    gcloud compute tpus tpu-vm ssh POD --worker=all --command="python several_hosts.py --detect"

If a process dies or never arrives, JAX ends the others: it monitors heartbeats, with a limit of ``--timeout``
seconds.
"""

from __future__ import annotations

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm import LSTMConfig, init_params
from jaxlstm.inference import Sharded, shard

BATCH, TIME, FEATURES, HIDDEN, RATE = 16, 24, 8, 64, 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    parser.add_argument("--processes", type=int, default=1, help="number of processes (default 1)")
    parser.add_argument("--process", type=int, default=0, help="the number of this process, from 0")
    parser.add_argument("--detect", action="store_true", help="let JAX detect the options above")
    parser.add_argument("--hidden", type=int, default=1, help="devices along 'hidden' (default 1)")
    parser.add_argument("--steps", type=int, default=20, help="training steps (default 20)")
    parser.add_argument("--timeout", type=int, default=60, help="seconds to wait for the others")
    args = parser.parse_args()
    if args.detect or args.processes > 1:
        connect(args)
    train(args)


def connect(args: argparse.Namespace) -> None:
    """Connect to the other processes. From here on JAX monitors their heartbeats."""
    named = {} if args.detect else {
        "coordinator_address": args.coordinator,
        "num_processes": args.processes,
        "process_id": args.process,
    }  # fmt: skip
    jax.distributed.initialize(
        **named,
        initialization_timeout=args.timeout,
        heartbeat_timeout_seconds=args.timeout,
        shutdown_timeout_seconds=args.timeout,
    )


def train(args: argparse.Namespace) -> None:
    """Train on a task that needs memory: the running mean of the inputs."""
    config = LSTMConfig(FEATURES, HIDDEN)
    mesh = jax.make_mesh((jax.device_count() // args.hidden, args.hidden), ("data", "hidden"))
    lstm = shard(config, mesh)
    rows = jax.NamedSharding(lstm.mesh, jax.P(None, "data"))
    step = jax.jit(partial(descend, lstm), donate_argnums=0)
    params = lstm.place(init_params(jax.random.key(0), config))
    for number in range(args.steps):
        inputs, targets = draw(number)
        # each process provides the rows on its devices
        x, y = (jax.make_array_from_callback(a.shape, rows, a.__getitem__) for a in (inputs, targets))
        params, loss = step(params, x, y)
        if jax.process_index() == 0:
            print(f"step {number}: loss {float(loss):.9f}", flush=True)


def descend(lstm: Sharded, params: dict, x: jax.Array, y: jax.Array) -> tuple[dict, jax.Array]:
    """Return the parameters after a step of gradient descent, and the loss before it."""

    def loss(params: dict) -> jax.Array:
        outputs, _ = lstm(params, x)
        return jnp.mean((outputs[:, :, :FEATURES] - y) ** 2)

    value, gradients = jax.value_and_grad(loss)(params)
    return jax.tree.map(lambda p, g: p - RATE * g, params, gradients), value


def draw(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a batch (time, batch, features) of bits and their running mean, equal in each process."""
    bits = np.random.default_rng(number).integers(0, 2, (TIME, BATCH, FEATURES)).astype(np.float32)
    mean = np.cumsum(bits, axis=0) / np.arange(1, TIME + 1, dtype=np.float32)[:, None, None]
    return bits, mean.astype(np.float32)


if __name__ == "__main__":
    main()
