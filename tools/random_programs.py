"""Compare random models of the package nnsmith with torch: ``python -m tools.random_programs [COUNT]``.

Programs run jitted, every second one with free axes and at two sizes. A result may differ from torch's by
three times the effect of the rounding of torch's operators. The exit status is 1 for a wrong result.
"""

# pyright: reportMissingImports=false
import collections
import sys
import warnings
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

import jaxlstm

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
ERRORS = (RuntimeError, TypeError, ValueError, LookupError, AssertionError)
# Operators that do not round, and sums, whose error is relative to the sum of the absolute values.
EXACT = ("ceil", "floor", "round", "trunc")
SUMS = ("addmm", "mm", "bmm", "baddbmm", "convolution", "sum", "mean", "gelu", "upsample")


class Rounded(TorchDispatchMode):
    """Changes results of operators by up to 8 units in the last place, an error that tan may have."""

    undefined = False  # True after a NaN or a number out of range became an integer.

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **kwargs or {})
        is_cast = func is torch.ops.aten._to_copy.default and args[0].is_floating_point()
        if is_cast and results.dtype in INTEGERS:
            self.undefined |= bool((results != args[0].trunc()).any())
        if func.name().removeprefix("aten::") in EXACT:
            return results
        if not func.name().removeprefix("aten::").startswith(SUMS):
            return tree_map_only(torch.Tensor, lambda x: rounded(x, x), results)
        args, kwargs = tree_map_only(torch.Tensor, torch.abs, (args, kwargs or {}))
        scale = func(*args, **kwargs)
        # Bicubic interpolation has negative weights.
        return rounded(results, scale.max() if "upsample" in func.name() else scale)


def rounded(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return a tensor with random errors relative to a scale. XLA sets subnormal numbers to zero."""
    if not x.is_floating_point() and not x.is_complex():
        return x
    limits = torch.finfo(x.dtype)
    changed = (x + 16 * limits.eps * (torch.rand(x.shape) - 0.5) * scale).to(x.dtype)
    return torch.where(x.isfinite(), changed * (changed.abs() >= limits.tiny), x)


def compare(net: torch.nn.Module, inputs: list[torch.Tensor], *, free: bool) -> str:
    """Return "equal", "undefined" in torch, "refused: REASON" or "wrong: VALUES"."""
    axes = torch.export.Dim.AUTO if free else torch.export.Dim.STATIC
    shapes = tuple(dict.fromkeys(range(x.ndim), axes) for x in inputs)
    try:
        program: Any = jaxlstm.from_module(net, tuple(inputs), dynamic_shapes=(shapes,))
        outcome = outcome_of(program, net, inputs)
        if free and outcome == "equal":
            added = [[isinstance(size, str) for size in declared.type.shape] for declared in program.inputs]
            shapes = [np.add(x.shape, more).astype(int) for x, more in zip(inputs, added, strict=True)]
            larger = [np.resize(x.numpy(), shape) for x, shape in zip(inputs, shapes, strict=True)]
            outcome = outcome_of(program, net, list(map(torch.from_numpy, larger)))
        return outcome
    except ERRORS as error:
        return f"refused: {type(error).__name__}: {str(error)[:200]}"


def outcome_of(program: jaxlstm.Program, net: torch.nn.Module, inputs: list[torch.Tensor]) -> str:
    """Compare a program with the runs of torch."""
    ours = jax.jit(program.__call__)(program.params, *(x.numpy() for x in inputs))
    runs, mode = [tree_leaves(net(*inputs))], Rounded()
    with mode:
        runs += [tree_leaves(net(*inputs)) for _ in range(50)]
    for mine, *theirs in zip(jax.tree.leaves(ours), *runs, strict=True):
        if not is_explained(np.asarray(mine), torch.stack(theirs).detach().numpy()):
            return "undefined" if mode.undefined else f"wrong: {mine}, torch {theirs[0]}"
    return "equal"


def is_explained(ours: np.ndarray, runs: np.ndarray) -> bool:
    """Return True if rounding explains the difference of a result from the first run."""
    if (ours.dtype, ours.shape) != (runs.dtype, runs.shape[1:]):
        return False
    with np.errstate(invalid="ignore", over="ignore"):
        wide = runs.astype(np.complex128)
        near = abs(ours - wide[0]) <= 3 * abs(wide - wide[0]).max(0)
    changed = (np.isfinite(runs) != np.isfinite(runs[0])).any(0)
    return bool(np.all((ours == runs[0]) | near | changed | (np.isnan(ours) & np.isnan(runs[0]))))


def main(seeds: Iterable[int]) -> int:
    """Compare the models of seeds, and return the exit status."""
    from nnsmith.error import ConstraintError, InternalError
    from nnsmith.graph_gen import model_gen
    from nnsmith.materialize import Model
    from nnsmith.narrow_spec import auto_opset

    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("ignore")
    kind = Model.init("torch", backend_target="cpu")
    operators = auto_opset(kind)
    outcomes: collections.Counter[str] = collections.Counter()
    for seed in seeds:
        torch.manual_seed(seed)
        try:
            graph = model_gen(operators, method="symbolic-cinit", seed=seed, max_nodes=10, timeout_ms=5000)
            net = kind.from_gir(graph.make_concrete()).torch_model.eval()
        except (ConstraintError, InternalError, RuntimeError):
            continue  # nnsmith finds no model in its time.
        net.debug_numeric = lambda tensors: None  # Else each call looks for NaN in the inputs.
        outcome = compare(net, list(net.get_random_inps().values()), free=seed % 2 == 1)
        outcomes[outcome.partition(":")[0]] += 1
        if outcome != "equal":
            print(f"{seed}: {outcome}", flush=True)
    print(dict(outcomes))
    return int(outcomes["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main(range(int(*sys.argv[1:]) or 2000)))
