"""Cases for eight simulated devices, each run in a separate process.

Each command line argument is the name of a function of this module that takes no arguments, or a config and a
mesh such as ``both:data=2,hidden=4``. Each case is printed after it holds.
"""

import math
import re
import sys
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxlstm import LSTMConfig, lstm
from jaxlstm.inference import compile, shard
from jaxlstm.kernels.cpu.library import library
from testing.inference import normal, weights
from testing.problems import Problem, draw, worst_error

CONFIGS = {
    "stack": LSTMConfig(5, 16, num_layers=2),
    "both": LSTMConfig(5, 16, bidirectional=True, proj_size=3, batch_first=True),
}


def check_sharding(config: LSTMConfig, sizes: tuple[int, ...], names: tuple[str, ...]) -> None:
    """Compare results and gradients with one device, and count the collectives."""
    params = weights(config)
    sharded = shard(config, jax.make_mesh(sizes, names))
    placed = sharded.place(params)
    for name, leaf in sharded.gather(placed).items():
        np.testing.assert_array_equal(leaf, params[name])
    x = normal(8, 7, 5) if config.batch_first else normal(7, 8, 5)
    shapes = config.state_shapes(8)
    state = normal(*shapes[0], seed=1), normal(*shapes[1], seed=2)
    lengths = np.array([7, 3, 1, 7, 5, 2, 6, 7])

    one = _value_and_gradients(
        lambda p, x: lstm(p, x, state, config=config, seq_lengths=lengths, backend="scan")
    )
    many = _value_and_gradients(lambda p, x: sharded(p, x, state, lengths))
    expected, (expected_params, expected_x) = one(params, x)
    actual, (actual_params, actual_x) = many(placed, x)
    assert worst_error(actual, expected) < 3e-6
    assert worst_error(sharded.gather(actual_params), expected_params) < 3e-6
    assert worst_error(actual_x, expected_x) < 3e-6

    text = jax.jit(sharded).lower(placed, jnp.asarray(x)).compile().as_text()
    assert text is not None
    collectives = re.findall(COLLECTIVE, text)
    count = config.num_layers * config.num_directions if "hidden" in names else 0
    assert collectives == ["all-gather"] * count, collectives
    if "hidden" in names:
        assert all("/while/body/" in line for line in text.splitlines() if " all-gather" in line)


def _value_and_gradients(run: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def value(params: dict, x: jax.Array) -> tuple[jax.Array, Any]:
        outputs, final = run(params, x)
        return jnp.sum(outputs**2) + jnp.sum(final.c), (outputs, final)

    return jax.jit(jax.value_and_grad(value, argnums=(0, 1), has_aux=True))


def default_device() -> None:
    """A Runner uses JAX's default device, which may be a device, a platform or None."""
    config = LSTMConfig(5, 12)
    for default, expected in ((jax.devices()[1], 1), ("cpu", 0), (None, 0)):
        with jax.default_device(default):
            runner = compile(weights(config), config, max_length=1, max_batch=1)
            assert runner.device.id == expected


COLLECTIVE = r" (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
FORWARD = {"jaxlstm_forward_both": 1}
STEP = {"jaxlstm_forward": 2, "jaxlstm_backward": 2, "jaxlstm_gradients": 2}
BATCH = (P(), P(None, "b"), P(None, "b"), P("b"))
PROBLEM = Problem(5, 16, 8, 16, proj_size=8, bidirectional=True, ragged=True)
CONFIG, PARAMS, X, STATE, LENGTHS = draw(PROBLEM, jnp.float32)
ARGUMENTS: list[Any] = [PARAMS, X, STATE, LENGTHS]


def mesh(kind: AxisType = AxisType.Auto) -> Mesh:
    return Mesh(np.array(jax.devices()), ("b",), axis_types=(kind,))


def forward(params: Any, x: Any, state: Any, lengths: Any, backend: str = "native") -> Any:
    return lstm(params, x, state, config=CONFIG, seq_lengths=lengths, backend=backend)


def step(params: Any, x: Any, state: Any, lengths: Any, run: Any = forward) -> Any:
    """Return the gradients of a training step."""

    def loss(params: Any, x: Any, state: Any) -> jax.Array:
        outputs, last = run(params, x, state, lengths)
        return (outputs**2).sum() + jnp.sin(last.c).sum()

    return jax.grad(loss, argnums=(0, 1, 2))(params, x, state)


def scan_step(*arguments: Any) -> Any:
    return step(*arguments, run=lambda *a: forward(*a, backend="scan"))


@lru_cache
def expected() -> tuple[Any, Any]:
    """Return outputs and gradients of the plain scan on one device."""
    outputs = jax.jit(lambda *a: forward(*a, backend="scan"))(*ARGUMENTS)
    return outputs, jax.jit(scan_step)(*ARGUMENTS)


def place(on: Mesh, specs: tuple, arguments: Any = ARGUMENTS) -> list:
    return [jax.device_put(a, NamedSharding(on, s)) for a, s in zip(arguments, specs, strict=True)]


def compiled(function: Any, arguments: list) -> tuple[Any, dict, dict, str]:
    """Return the results, the number of calls per kernel and per collective, and the compiled program."""
    program = jax.jit(function).lower(*arguments).compile()
    text = str(program.as_text())
    calls = Counter(re.findall(r'custom_call_target="(jaxlstm\w+)"', text))
    return program(*arguments), dict(calls), dict(Counter(re.findall(COLLECTIVE, text))), text


def close(
    function: Any, arguments: list, right: Any, kernels: dict, sent: dict | None = None, limit: float = 1e-6
) -> tuple[Any, str]:
    """Return results and program, after a check of results, calls of kernels and, if given, collectives."""
    results, calls, collectives, text = compiled(function, arguments)
    assert calls == kernels, calls
    assert sent is None or collectives == sent, collectives
    assert worst_error(results, right) < limit
    return results, text


def sharded_batch() -> None:
    """The forward pass sends nothing. A training step adds up the gradients of the weights, nothing else.

    Both biases have the same gradient, which is sent once.
    """
    expected_size = sum(x.size for name, x in PARAMS.items() if not name.startswith("bias_hh"))
    for kind in (AxisType.Auto, AxisType.Explicit):
        arguments = place(mesh(kind), BATCH)
        outputs, _ = close(forward, arguments, expected()[0], FORWARD, {})
        assert all(leaf.sharding.spec[1] == "b" for leaf in jax.tree.leaves(outputs))
        _, text = close(step, arguments, expected()[1], STEP, {"all-reduce": 1})
        (line,) = re.findall(r"= (.*) all-reduce\(", text)
        shapes = re.findall(r"f32\[([\d,]+)\]", line)
        size = sum(math.prod(map(int, shape.split(","))) for shape in shapes)
        assert size == expected_size, line


def same_bits() -> None:
    """Without AMX, a row does not depend on its batch, so one device returns the same bits."""
    handle, active = library().handle, library().instruction_set
    assert handle is not None
    if active.startswith("amx"):
        handle.jaxlstm_use_instruction_set(b"avx512_bf16")
    outputs, *_ = compiled(forward, place(mesh(), BATCH))
    jax.tree.map(np.testing.assert_array_equal, outputs, forward(*ARGUMENTS))
    handle.jaxlstm_use_instruction_set(active.encode())


def uneven_batch() -> None:
    def first_rows(run: Any) -> Any:
        return lambda p, x, s, lengths: run(
            p, x[:, :13], jax.tree.map(lambda leaf: leaf[:, :13], s), lengths[:13]
        )

    close(first_rows(step), place(mesh(), BATCH), jax.jit(first_rows(scan_step))(*ARGUMENTS), STEP)


def float64() -> None:
    """XLA partitions the program in a thread that does not see JAX's 64-bit mode."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), ARGUMENTS[:3]) + ARGUMENTS[3:]
        close(step, place(mesh(), BATCH, wide), jax.jit(scan_step)(*wide), STEP, limit=1e-14)


def shard_map() -> None:
    """Each device runs the kernel, with and without ``check_vma``.

    Without a state, the initial state of zeros varies over the mesh as the inputs do.
    """

    def mapped(function: Any, specs: tuple = BATCH, **options: Any) -> Any:
        return jax.shard_map(function, mesh=mesh(), in_specs=specs, out_specs=(rows, rows), **options)

    rows, placed = P(None, "b"), place(mesh(), BATCH)
    for check_vma in (True, False):
        run = mapped(forward, check_vma=check_vma)
        close(run, placed, expected()[0], FORWARD, {})
        close(lambda *a: step(*a, run=run), placed, expected()[1], STEP, {"all-reduce": 1})  # noqa: B023
    right = lstm(PARAMS, X, config=CONFIG, backend="scan")
    for backend in ("scan", "native"):
        run = mapped(lambda p, x: lstm(p, x, config=CONFIG, backend=backend), (P(), rows))  # noqa: B023
        assert worst_error(jax.jit(run)(PARAMS, X), right) < 1e-6


def plain_scan() -> None:
    """The plain scan on a mesh with explicit axes, with and without an initial state."""
    on = mesh(AxisType.Explicit)
    arguments = place(on, BATCH)
    with jax.set_mesh(on):
        close(scan_step, arguments, expected()[1], {}, {"all-reduce": 1})
        params, x = arguments[:2]
        actual = jax.jit(lambda p, x: lstm(p, x, config=CONFIG, backend="scan"))(params, x)
    assert worst_error(actual, lstm(*ARGUMENTS[:2], config=CONFIG, backend="scan")) < 1e-6


def export() -> None:
    exported = jax.export.export(jax.jit(forward))(*place(mesh(), BATCH))
    assert "jaxlstm_" not in exported.mlir_module()
    assert worst_error(exported.call(*place(mesh(), BATCH)), expected()[0]) < 1e-6


def jax_without_the_private_name() -> None:
    """Programs for several devices run the plain scan, programs for one device the kernel."""
    name, private = "jax._src.dispatch", "prim_requires_devices_during_lowering"
    real, without = sys.modules[name], ModuleType(name)
    without.__dict__.update({key: value for key, value in vars(real).items() if key != private})
    sys.modules[name] = without
    import_module("jaxlstm.kernels.cpu.ffi")  # looks the name up
    sys.modules[name] = real
    for function, right, kernels in zip((forward, step), expected(), (FORWARD, STEP), strict=True):
        close(function, place(mesh(), BATCH), right, {})
        assert compiled(function, ARGUMENTS)[1] == kernels


if __name__ == "__main__":
    assert len(jax.devices()) == 8
    jax.config.update("jax_disable_most_optimizations", True)  # most of the time is compilation
    for case in sys.argv[1:]:
        name, _, axes = case.partition(":")
        if axes:
            sizes = {axis: int(size) for axis, size in (a.split("=") for a in axes.split(","))}
            check_sharding(CONFIGS[name], tuple(sizes.values()), tuple(sizes))
        else:
            globals()[name]()
        print(case)
