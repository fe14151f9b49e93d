"""Run random valid torch models, which the package nnsmith builds, as programs and compare them with torch.

    pip install nnsmith
    python -m tools.random_programs --models 2000

Every second model is exported with free axes, and also runs at other sizes. Where a result differs from
torch's, torch runs the model a dozen times with rounding errors added to the result of each operator. A value
outside of the range of these runs is wrong. The exit status is 1 if a value is wrong.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import argparse
import collections
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from torch.export import Dim
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

import jaxlstm
from jaxlstm.programs import Program, ProgramError
from jaxlstm_converters.checkpoint.errors import CheckpointError

Inputs = tuple[torch.Tensor, ...]

ROUNDED_RUNS = 12
# Other implementations of exp, tan and the like differ by more than the last place.
ROUNDING = 8.0
# Operators that add terms which may cancel: their rounding error is relative to the sum of absolute values.
SUMS = {"addmm", "mm", "bmm", "baddbmm", "convolution", "sum", "mean"} | {
    f"upsample_{kind}" for kind in ("linear1d", "bilinear2d", "bicubic2d", "trilinear3d")
}


class Rounded(TorchDispatchMode):
    """Changes each floating-point result of an operator by up to ``ROUNDING`` units in the last place.

    Every second mode also sets subnormal numbers to zero, as XLA does. ``undefined`` is set if a NaN or a
    number out of range becomes an integer, which torch leaves undefined.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)
        self._flushes = seed % 2 == 1
        self.undefined = False

    def _perturb(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        noise = torch.rand(x.shape, generator=self._generator, dtype=torch.float64) * 2 - 1
        changed = (x.double() + ROUNDING * torch.finfo(x.dtype).eps * noise * scale.double()).to(x.dtype)
        if self._flushes:
            changed = torch.where(changed.abs() < torch.finfo(x.dtype).tiny, torch.zeros_like(x), changed)
        return torch.where(x.isfinite(), changed, x)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        if (
            func is torch.ops.aten._to_copy.default
            and args[0].is_floating_point()
            and _is_integer(results.dtype)
        ):
            limits, value = torch.iinfo(results.dtype), args[0].double().trunc()
            # Both comparisons are false for NaN.
            self.undefined |= not bool(((value >= limits.min) & (value < limits.max + 1)).all())
        if func is torch.ops.aten.gelu.default:
            # x (1 + erf) / 2 cancels for negative x.
            return self._perturb(results, args[0])
        if func.name().partition(".")[0].removeprefix("aten::") in SUMS:
            terms = tree_map_only(torch.Tensor, torch.abs, (args, kwargs or {}))
            return (
                self._perturb(results, func(*terms[0], **terms[1]))
                if results.is_floating_point()
                else results
            )
        return tree_map_only(torch.Tensor, self._perturb_by_its_size, results)

    def _perturb_by_its_size(self, x: torch.Tensor) -> torch.Tensor:
        if x.is_complex():
            parts = torch.view_as_real(x.resolve_conj())
            return torch.view_as_complex(self._perturb(parts, x.abs()[..., None]))
        return self._perturb(x, x) if x.is_floating_point() else x


def _is_integer(dtype: torch.dtype) -> bool:
    return not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)


def models(first: int, count: int, max_nodes: int) -> Iterator[tuple[int, torch.nn.Module, Inputs]]:
    """Yield seeds, models and their inputs. A seed without a model within nnsmith's time is left out."""
    from nnsmith.abstract.extension import activate_ext
    from nnsmith.error import ConstraintError
    from nnsmith.graph_gen import model_gen
    from nnsmith.materialize import Model
    from nnsmith.narrow_spec import auto_opset

    kind = Model.init("torch", backend_target="cpu")
    kind.add_seed_setter()
    operators = auto_opset(kind, None, vulops=True)
    activate_ext(opset=operators, factory=None)
    for seed in range(first, first + count):
        try:
            graph = model_gen(
                opset=operators,
                method="symbolic-cinit",
                seed=seed,
                max_nodes=max_nodes,
                max_elem_per_tensor=4096,
                timeout_ms=5000,
            )
            torch.manual_seed(seed)
            model = kind.from_gir(graph.make_concrete())
        except (ConstraintError, RuntimeError) as error:
            print(f"{seed}: not generated: {error}", file=sys.stderr)
            continue
        net = model.torch_model.eval()
        # Else each call looks for NaN in the inputs, a condition on values that torch cannot export.
        net.debug_numeric = lambda tensors: None
        yield seed, net, tuple(net.get_random_inps().values())


def other_sizes(program: Program, inputs: Inputs, seed: int) -> Inputs | None:
    """Return inputs with other sizes of the free axes, or None if every axis is fixed."""
    rng = np.random.default_rng(seed)
    sizes: dict[str, int] = {}
    changed = []
    for spec, example in zip(program.inputs, inputs, strict=True):
        if spec.type is None or None in spec.type.shape:
            return None
        for axis in spec.type.shape:
            if isinstance(axis, str) and axis not in sizes:
                low, high = program.graph.size_range(axis)
                sizes[axis] = min(max(low, 2) + int(rng.integers(8)), high or 1 << 30)
        shape = [axis if isinstance(axis, int) else sizes[str(axis)] for axis in spec.type.shape]
        values = rng.choice(example.flatten().numpy(), shape)
        changed.append(torch.from_numpy(np.asarray(values)).to(example.dtype).reshape(shape))
    return tuple(changed) if sizes else None


def wrong_results(net: torch.nn.Module, inputs: Inputs, ours: list[Any]) -> str:
    """Return which results no rounding explains."""
    expected = [np.asarray(x.detach()) for x in net(*inputs)]
    suspects = {}
    for index, (theirs, mine) in enumerate(zip(expected, ours, strict=True)):
        mine = np.asarray(mine)
        if theirs.dtype != mine.dtype or theirs.shape != mine.shape:
            return f"WRONG: result {index}: {mine.dtype}{mine.shape}, torch {theirs.dtype}{theirs.shape}"
        differs = ~np.isclose(mine, theirs, rtol=_tolerance(theirs.dtype), atol=0, equal_nan=True)
        if differs.any():
            suspects[index] = (mine, theirs, differs)
    if not suspects:
        return ""
    reached, undefined = rounded_results(net, inputs)
    for index, (mine, theirs, differs) in suspects.items():
        wrong = differs & ~_explained(mine, reached[index])
        if wrong.any():
            if undefined:
                return "undefined in torch: a NaN or a number out of range becomes an integer"
            return f"WRONG: result {index}: {mine[wrong][:3]}, torch {theirs[wrong][:3]}"
    return ""


def rounded_results(net: torch.nn.Module, inputs: Inputs) -> tuple[list[np.ndarray], bool]:
    """Return each result without and with rounding errors, (runs, ...), and if some result is undefined."""
    runs, undefined = [net(*inputs)], False
    for seed in range(ROUNDED_RUNS):
        with Rounded(seed) as rounded:
            runs.append(net(*inputs))
        undefined |= rounded.undefined
    results = zip(*runs, strict=True)
    return [np.stack([np.asarray(x.detach()) for x in result]) for result in results], undefined


def _tolerance(dtype: np.dtype) -> float:
    return ROUNDING * float(np.finfo(dtype).eps) if np.issubdtype(dtype, np.inexact) else 0.0


def _explained(mine: np.ndarray, reached: np.ndarray) -> np.ndarray:
    """Return where rounding explains a value: it changes torch's by a third as much, or in kind."""
    if not np.issubdtype(mine.dtype, np.inexact):
        return np.any(reached != reached[0], axis=0)
    finite = np.isfinite(reached)
    with np.errstate(invalid="ignore", over="ignore"):
        wide = reached.astype(np.complex128)
        near = np.abs(mine - wide[0]) <= 3 * np.abs(wide - wide[0]).max(0)
    return near | np.any(finite != finite[0], axis=0)


def compare(seed: int, net: torch.nn.Module, inputs: Inputs, samples: Path | None) -> str:
    """Return "equal", or what happened instead: "refused: ..." or "WRONG ..."."""
    free = seed % 2 == 1
    axes = Dim.AUTO if free else Dim.STATIC
    shapes = (tuple(dict.fromkeys(range(x.ndim), axes) for x in inputs),)
    try:
        program = jaxlstm.from_module(net, inputs, dynamic_shapes=shapes)
    except (ProgramError, CheckpointError) as error:
        return f"refused: {str(error).splitlines()[0]}"
    except Exception as error:
        # torch's exporter raises errors of every type.
        return f"refused: torch.export: {type(error).__name__}: {str(error).splitlines()[0][:120]}"
    run = jax.jit(program.__call__)
    tried = [inputs]
    if free and (others := other_sizes(program, inputs, seed)) and _accepts(net, others):
        tried.append(others)
    for values in tried:
        arrays = [x.numpy() for x in values]
        try:
            ours = jax.tree.leaves(run(program.params, *arrays))
        except ProgramError as error:
            return (
                f"refused at {'other sizes' if values is not inputs else 'the size of the example'}: {error}"
            )
        if wrong := wrong_results(net, values, ours):
            return wrong
    if samples and is_settled(net, tried[-1]):
        write_sample(samples / str(seed), program, net, tried[-1])
    return "equal, at two sizes" if len(tried) == 2 else "equal"


def _accepts(net: torch.nn.Module, inputs: Inputs) -> bool:
    try:
        net(*inputs)
    except (RuntimeError, IndexError):
        return False
    return True


def is_settled(net: torch.nn.Module, inputs: Inputs) -> bool:
    """Return True if rounding changes torch's results by a few units in the last place only."""
    return all(
        np.allclose(reached, reached[:1], rtol=10 * _tolerance(reached.dtype), atol=0, equal_nan=True)
        for reached in rounded_results(net, inputs)[0]
    )


def write_sample(path: Path, program: Program, net: torch.nn.Module, inputs: Inputs) -> None:
    """Write the program (.pt2), and inputs and torch's results (.npz: ``in.INDEX`` and ``out.INDEX``)."""
    program.save(path.with_suffix(".pt2"))
    arrays = {f"in.{index}": x.numpy() for index, x in enumerate(inputs)}
    arrays |= {f"out.{index}": x.detach().numpy() for index, x in enumerate(net(*inputs))}
    np.savez_compressed(path.with_suffix(".npz"), allow_pickle=False, **arrays)


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--max-nodes", type=int, default=10)
    parser.add_argument(
        "--samples", type=Path, help="write each model that is equal, and not sensitive to rounding"
    )
    options = parser.parse_args(arguments)
    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("ignore")
    outcomes: collections.Counter[str] = collections.Counter()
    for seed, net, inputs in models(options.first, options.models, options.max_nodes):
        outcome = compare(seed, net, inputs, options.samples)
        outcomes[outcome.partition(": result")[0]] += 1
        if not outcome.startswith("equal"):
            print(f"{seed}: {outcome}", flush=True)
    for outcome, count in outcomes.most_common():
        print(f"{count:6} {outcome}")
    return int(outcomes["WRONG"] > 0)


if __name__ == "__main__":
    sys.exit(main())
