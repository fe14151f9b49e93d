"""``jaxlstm export FILE -o OUT``: export an LSTM or a program as an artifact that runs without jaxlstm."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxlstm._shared.progress import progress_bar
from jaxlstm._shared.table import size
from jaxlstm.cli.options import (
    add_command,
    add_method,
    add_unrecorded,
    checkpoint_files,
    load_selected,
    refuse_options,
    require_output,
    takes_program,
    warn_of_assumptions,
)

TOLERANCE = 1e-5
"""Largest accepted difference between an artifact and jaxlstm, relative to the largest result."""


def add_parser(commands: Any) -> None:
    """Add the command's parser."""
    parser = add_command(
        commands,
        "export",
        run,
        help="export one LSTM or a .pt2 program as a StableHLO artifact",
        description="Export one LSTM of a PyTorch checkpoint as a jax.export artifact, a function "
        "(inputs, h_0, c_0) -> (outputs, h_n, c_n) of any batch size and length that runs without jaxlstm. "
        "A .pt2 program becomes a function of the tensors among its inputs, of any size of its free axes; "
        "--prefix selects one LSTM of it. "
        "The artifact is read back, run and compared with jaxlstm. "
        "Exit status: 0 if the results agree, 1 if not, 2 for bad input.",
        output="the file to write, such as model.stablehlo; it must not be FILE",
    )
    add_unrecorded(parser)
    add_method(parser)
    parser.add_argument(
        "--platforms",
        default="cpu,cuda,tpu",
        metavar="LIST",
        help="the platforms to compile for, out of cpu, cuda, rocm and tpu (default: cpu,cuda,tpu)",
    )
    parser.add_argument(
        "--weights",
        choices=("auto", "inside", "beside"),
        default="auto",
        help="weights inside OUT or in a safetensors file beside it (default: inside up to 512 MiB)",
    )


def run(args: argparse.Namespace) -> int:
    """Export, read back, and compare: 0 if the results agree or this machine cannot run them, else 1."""
    subject = _program(args) if takes_program(args) else _lstm(args)
    from jaxlstm.inference.artifact import goes_beside, weights_beside

    output = Path(args.output)
    has_weights_file = goes_beside(subject.params, args.weights)
    if has_weights_file:
        require_output(weights_beside(output), checkpoint_files(args.checkpoint))
    platforms = [name.strip() for name in args.platforms.split(",")]
    with progress_bar() as progress:
        progress(0, 2, f"exporting for {', '.join(platforms)}")
        subject.export(output, platforms=platforms, weights=args.weights, overwrite=args.overwrite)
        progress(1, 2, f"comparing with {subject.reference}")
        try:
            difference = _difference(output, subject.example)
        except KeyboardInterrupt:
            output.unlink()
            if has_weights_file:
                weights_beside(output).unlink()
            raise
    report = {
        "output": str(output),
        "bytes": output.stat().st_size,
        "weights": str(weights_beside(output)) if has_weights_file else "inside",
        "platforms": platforms,
        **subject.described,
        "largest_difference": difference,
    }
    verdict = "not run: this machine has none of these platforms, or the program refused the sizes tried"
    if difference is not None:
        verdict = f"read back and run: largest difference from {subject.reference} {difference:.1e}"
    summary = f"{output}: {size(report['bytes'])} for {', '.join(platforms)}, {subject.title}"
    text = f"{summary}\nweights: {report['weights']}\n{verdict}"
    print(json.dumps(report, indent=2) if args.json else text)
    return 0 if difference is None or difference <= TOLERANCE else 1


class _Exportable(NamedTuple):
    """An LSTM or a program to export.

    Attributes:
      reference: the name of the code with which the artifact is compared.
      title, described: the description as text and for the report.
      export: takes the path and the options, writes the artifact, and prints warnings.
      example: returns random inputs and the results of the reference, or None if no inputs fit.
    """

    reference: str
    title: str
    described: dict[str, Any]
    params: Mapping[str, Any]
    export: Callable[..., Any]
    example: Callable[[], tuple[Sequence[Any], Any] | None]


def _lstm(args: argparse.Namespace) -> _Exportable:
    require_output(args.output, checkpoint_files(args.checkpoint))
    if args.method:
        raise ValueError(f"--method selects a program of a .pt2 file, got {args.checkpoint}")
    import numpy as np

    from jaxlstm.functional import lstm
    from jaxlstm.inference.artifact import export
    from jaxlstm.layer.config import config_to_dict

    with progress_bar() as progress:
        selected = load_selected(args, progress)
    params, config, assumed, _ = selected

    def write(path: Path, **options: Any) -> None:
        export(path, params, config, assumed=assumed, **options)
        warn_of_assumptions(args, selected)

    def example() -> tuple[Sequence[Any], Any]:
        rng, dtype = np.random.default_rng(0), next(iter(params.values())).dtype
        shapes = [(5, 5, config.input_size), *config.state_shapes(5)]
        x, h_0, c_0 = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
        return (x, h_0, c_0), lstm(params, x, (h_0, c_0), config=config, backend="scan")

    return _Exportable(
        "jaxlstm.lstm", str(config), {"config": config_to_dict(config, assumed)}, params, write, example
    )


def _program(args: argparse.Namespace) -> _Exportable:
    import jax

    from jaxlstm.cli.program import describe, shape_text
    from jaxlstm.inference.artifact import export_program, positional
    from jaxlstm.inference.random_inputs import random_inputs
    from jaxlstm_converters.pt2._load_program import load_program

    refuse_options(args, "batch_first", "dropout")
    require_output(args.output, [args.checkpoint])
    with progress_bar() as progress:
        progress(0, 1, f"reading {args.checkpoint}")
        program = load_program(args.checkpoint, method=args.method)

    def example() -> tuple[Sequence[Any], Any] | None:
        tensors = random_inputs(program)
        if tensors is None:
            return None
        run = jax.jit(positional(program.with_options(backend="scan")))
        return tensors, run(program.params, *tensors)

    described = describe(program.graph)
    shapes = ", ".join(f"{entry['name']}: {shape_text(entry)}" for entry in described["inputs"])
    return _Exportable(
        "the program",
        f"a function of {shapes}",
        {name: described[name] for name in ("inputs", "free_axes", "results")},
        program.params,
        lambda path, **options: export_program(path, program, **options),
        example,
    )


def _difference(path: Path, example: Callable[[], tuple[Sequence[Any], Any] | None]) -> float | None:
    """Return the largest difference of an artifact from an example, relative to the largest of each result.

    It is None without code for this machine or without an example.
    """
    import jax
    import numpy as np

    from jaxlstm.inference.artifact import read_artifact, read_weights

    exported, platform = read_artifact(path), jax.default_backend()
    if {"gpu": "cuda"}.get(platform, platform) not in exported.platforms or (sample := example()) is None:
        return None
    tensors, expected = sample
    weights = read_weights(path, exported)
    actual = jax.jit(exported.call)(*(() if weights is None else (weights,)), *tensors)
    differences = [0.0]
    for pair in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        a, b = (np.asarray(leaf, np.float64) for leaf in pair)
        if a.size:
            differences.append(np.abs(a - b).max() / np.maximum(1.0, np.abs(b).max()))
    return float(np.max(differences))  # np.max propagates NaN, which Python's max may drop
