"""Train an LSTM, or a whole Flax model, over the devices of several processes or hosts.

Every process runs this program and sees all devices. The batch is split along the axis "data" of the mesh,
the hidden units of a single LSTM along "hidden". ``jaxlstm.inference.shard`` places its weights. With
``--model demo``, each device has all weights of ``demo.pt``, a PyTorch model in Flax. Process 0 writes the
weights of ``--save``, and the last gradients of ``--gradients``, under torch's names.

To try it on one machine, start two processes in two terminals:

    python examples/several_hosts.py --coordinator localhost:12355 --processes 2 --process 0
    python examples/several_hosts.py --coordinator localhost:12355 --processes 2 --process 1

On several hosts, pass a port of the first host that the others can reach, such as ``host0:12355``. On Slurm
and Cloud TPU pods, JAX detects the processes:

    srun --nodes 4 --ntasks-per-node 1 python examples/several_hosts.py --detect
    gcloud compute tpus tpu-vm ssh POD --worker=all --command="python several_hosts.py --detect"

If a process dies or is more than ``--timeout`` seconds late, JAX ends the others.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxlstm

DEMO = Path(__file__).parent / "demo.pt"
BATCH, TIME, FEATURES, HIDDEN, RATE = 16, 24, 8, 64, 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    parser.add_argument("--processes", type=int, default=1, help="number of processes (default 1)")
    parser.add_argument("--process", type=int, default=0, help="the number of this process, from 0")
    parser.add_argument("--detect", action="store_true", help="let JAX detect the options above")
    parser.add_argument("--hidden", type=int, default=1, help="devices along 'hidden' (default 1)")
    parser.add_argument("--model", choices=MODELS, default="lstm", help="the model (default lstm)")
    parser.add_argument("--save", metavar="FILE.npz", help="write the weights after the last step")
    parser.add_argument("--gradients", metavar="FILE.npz", help="write the gradients of the last step")
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
    """Train by gradient descent."""
    auto = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh((jax.device_count() // args.hidden, args.hidden), ("data", "hidden"), auto)
    model = MODELS[args.model](mesh)
    rows, whole = jax.NamedSharding(mesh, model.rows), jax.NamedSharding(mesh, jax.P())

    def descend(params: Any, x: jax.Array, y: jax.Array) -> tuple[Any, Any, jax.Array]:
        value, gradients = jax.value_and_grad(model.loss)(params, x, y)
        return jax.tree.map(lambda p, g: p - RATE * g, params, gradients), gradients, value

    step, params = jax.jit(descend, donate_argnums=0), model.params
    gradients = jax.tree.map(jnp.zeros_like, params)
    for number in range(args.steps):
        # each process provides the rows on its devices
        batch = (jax.make_array_from_callback(a.shape, rows, a.__getitem__) for a in model.draw(number))
        params, gradients, loss = step(params, *batch)
        if jax.process_index() == 0:
            print(f"step {number}: loss {float(loss):.9f}", flush=True)
    for path, tree in ((args.save, params), (args.gradients, gradients)):
        if path:
            tree = jax.jit(lambda tree: tree, out_shardings=whole)(tree)  # all processes send their parts
            if jax.process_index() == 0:
                np.savez(path, **model.tensors(tree))


class Model(NamedTuple):
    """Placed parameters, loss(params, x, y), the batch of a step, its sharding, and torch's tensors."""

    params: Any
    loss: Callable[[Any, jax.Array, jax.Array], jax.Array]
    draw: Callable[[int], tuple[np.ndarray, np.ndarray]]
    rows: jax.P
    tensors: Callable[[Any], dict[str, Any]]


def lstm_model(mesh: jax.sharding.Mesh) -> Model:
    """An LSTM on a task that needs memory: the running mean of the inputs (time, batch, features)."""
    config = jaxlstm.LSTMConfig(FEATURES, HIDDEN)
    lstm = jaxlstm.inference.shard(config, mesh)

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        outputs, _ = lstm(params, x)
        return jnp.mean((outputs[:, :, :FEATURES] - y) ** 2)

    def draw(number: int) -> tuple[np.ndarray, np.ndarray]:
        bits = np.random.default_rng(number).integers(0, 2, (TIME, BATCH, FEATURES)).astype(np.float32)
        mean = np.cumsum(bits, axis=0) / np.arange(1, TIME + 1, dtype=np.float32)[:, None, None]
        return bits, mean.astype(np.float32)

    params = lstm.place(jaxlstm.init_params(jax.random.key(0), config))
    return Model(params, loss, draw, jax.P(None, "data"), lstm.gather)


def demo_model(mesh: jax.sharding.Mesh) -> Model:
    """The model of ``demo.pt``, trained further to mark characters (batch, time) by their number modulo 7."""
    from flax import nnx

    class Tagger(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.embedding = nnx.Embed(29, 16, rngs=rngs)
            self.lstm = jaxlstm.nnx.LSTM(16, 24, 2, batch_first=True, bidirectional=True, rngs=rngs)
            self.capital = nnx.Linear(48, 1, rngs=rngs)
            self.mark = nnx.Linear(48, 7, rngs=rngs)

        def __call__(self, characters: jax.Array) -> jax.Array:
            return self.mark(self.lstm(self.embedding(characters))[0])

    names = {"tagger.embedding": "embedding", "tagger.lstm": "lstm"}
    model = Tagger(nnx.Rngs(0))
    jaxlstm.load_state_dict(model, DEMO, names=names)
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        logits = nnx.merge(graph, params, rest)(x)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[..., None], -1).mean()

    def draw(number: int) -> tuple[np.ndarray, np.ndarray]:
        characters = np.random.default_rng(number).integers(0, 29, (BATCH, TIME))
        return characters, characters % 7

    def tensors(params: Any) -> dict[str, Any]:
        nnx.update(model, params)
        return jaxlstm.state_dict(model, names=names)

    placed = jax.device_put(params, jax.NamedSharding(mesh, jax.P()))
    return Model(placed, loss, draw, jax.P("data"), tensors)


MODELS = {"lstm": lstm_model, "demo": demo_model}

if __name__ == "__main__":
    main()
