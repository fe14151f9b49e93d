"""``jaxlstm export FILE -o OUT``: export an LSTM or a program as an artifact that runs without jaxlstm."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxlstm._shared.progress import progress_bar
from jaxlstm._shared.table import size
from jaxlstm.cli.options import (
    add_command,
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
        overwrite=True,
    )
    add_unrecorded(parser)
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
    from jaxlstm.inference.artifact import goes_beside, read_artifact, weights_beside

    output = Path(args.output)
    beside = goes_beside(subject.params, args.weights)
    if beside:
        require_output(weights_beside(output), checkpoint_files(args.checkpoint))
    platforms = [name.strip() for name in args.platforms.split(",")]
    with progress_bar() as progress:
        progress(0, 2, f"exporting for {', '.join(platforms)}")
        subject.export(output, platforms=platforms, weights=args.weights, overwrite=args.overwrite)
        progress(1, 2, f"comparing with {subject.reference}")
        difference = subject.compare(output) if _runs_here(read_artifact(output)) else None
    subject.warn()
    report = {
        "output": str(output),
        "bytes": output.stat().st_size,
        "weights": str(weights_beside(output)) if beside else "inside",
        "platforms": platforms,
        **subject.described,
        "largest_difference": difference,
    }
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        print(f"{output}: {size(report['bytes'])} for {', '.join(platforms)}, {subject.title}")
        print(f"weights: {report['weights']}")
        print(
            "not run: this machine has none of these platforms, or the program refused the sizes tried"
            if difference is None
            else f"read back and run: largest difference from {subject.reference} {difference:.1e}"
        )
    return 0 if difference is None or difference <= TOLERANCE else 1


class _Exportable(NamedTuple):
    """An LSTM or a program to export.

    Attributes:
      reference: the name of the code with which the artifact is compared.
      title, described: the description as text and for the report.
      params: the weights.
      export: takes the path and the options, and writes the artifact.
      compare: takes the path and returns the largest difference on random inputs, or None if none fit.
      warn: prints the warnings about the subject.
    """

    reference: str
    title: str
    described: dict[str, Any]
    params: Mapping[str, Any]
    export: Callable[..., Any]
    compare: Callable[[Path], float | None]
    warn: Callable[[], None]


def _lstm(args: argparse.Namespace) -> _Exportable:
    require_output(args.output, checkpoint_files(args.checkpoint))
    from jaxlstm.inference.lstm_artifact import export
    from jaxlstm.layer.config import config_to_dict

    with progress_bar() as progress:
        selected = load_selected(args, progress)
    params, config, assumed, _ = selected
    return _Exportable(
        "jaxlstm.lstm",
        str(config),
        {"config": config_to_dict(config, assumed)},
        params,
        lambda path, **options: export(path, params, config, assumed=assumed, **options),
        lambda path: _difference_of_lstm(path, params, config),
        lambda: warn_of_assumptions(args, selected),
    )


def _difference_of_lstm(path: Path, params: Any, config: Any) -> float:
    import numpy as np

    from jaxlstm.functional import lstm
    from jaxlstm.inference.lstm_artifact import load_exported

    loaded = load_exported(path)
    rng = np.random.default_rng(0)
    dtype = loaded.exported.in_avals[-1].dtype
    shapes = [(5, 5, config.input_size), *config.state_shapes(5)]
    x, h_0, c_0 = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    expected = lstm(params, x, (h_0, c_0), config=config, backend="scan")
    return _relative_difference(loaded(x, (h_0, c_0)), expected)


def _program(args: argparse.Namespace) -> _Exportable:
    from jaxlstm.cli.program import describe, shape_text
    from jaxlstm.inference.program_artifact import export_program
    from jaxlstm_converters.pt2._load_program import load_program

    refuse_options(args, "batch_first", "dropout")
    require_output(args.output, [args.checkpoint])
    with progress_bar() as progress:
        progress(0, 1, f"reading {args.checkpoint}")
        program = load_program(args.checkpoint)
    described = describe(program.graph)
    shapes = ", ".join(f"{entry['name']}: {shape_text(entry)}" for entry in described["inputs"])
    return _Exportable(
        "the program",
        f"a function of {shapes}",
        {name: described[name] for name in ("inputs", "free_axes", "results")},
        program.params,
        lambda path, **options: export_program(path, program, **options),
        lambda path: _difference_of_program(path, program),
        lambda: None,
    )


def _difference_of_program(path: Path, program: Any) -> float | None:
    import jax

    from jaxlstm.inference.artifact import read_artifact, read_weights
    from jaxlstm.inference.program_artifact import positional
    from jaxlstm.inference.random_inputs import random_inputs

    exported = read_artifact(path)
    weights = read_weights(path, exported)
    tensors = random_inputs(program)
    if tensors is None:
        return None
    expected = jax.jit(positional(program.with_options(backend="scan")))(program.params, *tensors)
    arguments = tensors if weights is None else [weights, *tensors]
    return _relative_difference(jax.jit(exported.call)(*arguments), expected)


def _runs_here(exported: Any) -> bool:
    """Return True if an artifact has code for the default device of this machine."""
    import jax

    here = jax.default_backend()
    return {"gpu": "cuda"}.get(here, here) in exported.platforms


def _relative_difference(actual: Any, expected: Any) -> float:
    """Return the largest difference between two trees of arrays, relative to the largest value of each."""
    import jax
    import numpy as np

    differences = [0.0]
    for pair in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        a, b = (np.asarray(leaf, np.float64) for leaf in pair)
        if a.size:
            differences.append(np.abs(a - b).max() / np.maximum(1.0, np.abs(b).max()))
    return float(np.max(differences))  # np.max propagates NaN, which Python's max may drop
