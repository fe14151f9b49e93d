"""``jaxlstm export`` on a ``.pt2`` file: export the whole program as a StableHLO artifact."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from jaxlstm._shared.progress import progress_bar
from jaxlstm._shared.table import size
from jaxlstm.cli.compare_artifact import platform_names, relative_difference, runs_here, show_comparison
from jaxlstm.cli.output import require_output
from jaxlstm.cli.program import refuse_options
from jaxlstm.cli.program.describe import describe, shape_text

if TYPE_CHECKING:
    from jaxlstm.programs.program import Program


def run_program(args: argparse.Namespace) -> int:
    """Export, read back, and compare with the program if this machine can run it: 0 if equal, 1 if not."""
    from jaxlstm.inference.artifact import goes_beside, weights_beside
    from jaxlstm.inference.program_artifact import export_program
    from jaxlstm_converters.pt2._load_program import load_program

    refuse_options(args, batch_first="--batch-first", dropout="--dropout")
    output = Path(args.output)
    require_output(output, [args.checkpoint])
    with progress_bar() as progress:
        progress(0, 1, f"reading {args.checkpoint}")
        program = load_program(args.checkpoint)
    beside = goes_beside(program.params, args.weights)
    if beside:
        require_output(weights_beside(output), [args.checkpoint])
    platforms = platform_names(args)
    with progress_bar() as progress:
        progress(0, 2, f"exporting for {', '.join(platforms)}")
        export_program(output, program, platforms=platforms, weights=args.weights, overwrite=args.overwrite)
        progress(1, 2, "comparing with the program")
        difference = _largest_difference(output, program)
    report = {
        "output": str(output),
        "bytes": output.stat().st_size,
        "weights": str(weights_beside(output)) if beside else "inside",
        "platforms": platforms,
        **{name: describe(program.graph)[name] for name in ("inputs", "free_axes", "results")},
        "largest_difference": difference,
    }
    shapes = ", ".join(f"{entry['name']}: {shape_text(entry)}" for entry in report["inputs"])
    text = f"{output}: {size(report['bytes'])} for {', '.join(platforms)}, a function of {shapes}"
    not_run = "this machine has none of these platforms, or the program refuses the sizes that were tried"
    return show_comparison(report, text, "the program", as_json=args.json, not_run=not_run)


def _largest_difference(output: Path, program: Program) -> float | None:
    """Return the largest relative difference on random inputs, or None if the artifact cannot run here."""
    import jax

    from jaxlstm._shared.safetensors import read_safetensors
    from jaxlstm.inference.artifact import read_artifact, weights_beside
    from jaxlstm.inference.program_artifact import has_separate_weights, positional
    from jaxlstm.inference.random_inputs import random_inputs

    exported = read_artifact(output)
    if not runs_here(exported):
        return None
    weights = (read_safetensors(weights_beside(output)),) if has_separate_weights(exported) else ()
    tensors = random_inputs(program)
    if tensors is None:
        return None
    actual = jax.jit(exported.call)(*weights, *tensors)
    expected = positional(program.with_options(backend="scan"))
    return relative_difference(actual, jax.jit(expected)(program.params, *tensors))
