"""``jaxlstm export FILE -o OUT``: export an LSTM or a program as an artifact that runs without jaxlstm."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from jaxlstm._shared.progress import progress_bar
from jaxlstm._shared.table import size
from jaxlstm.cli.arguments import add_command, add_unrecorded, load_selected, warn_of_assumptions
from jaxlstm.cli.compare_artifact import platform_names, relative_difference, runs_here, show_comparison
from jaxlstm.cli.output import checkpoint_files, require_output
from jaxlstm.cli.program import takes_program
from jaxlstm.cli.program.export import run_program


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
    """Export, read back, and compare with ``lstm`` if this machine can run it: 0 if equal, 1 if not."""
    if takes_program(args):
        return run_program(args)
    from jaxlstm.inference.artifact import goes_beside, weights_beside
    from jaxlstm.inference.lstm_artifact import export, load_exported
    from jaxlstm.layer.config_json import config_to_dict

    output = Path(args.output)
    inputs = checkpoint_files(args.checkpoint)
    require_output(output, inputs)
    with progress_bar() as progress:
        selected = load_selected(args, progress)
    params, config, assumed, _ = selected
    if goes_beside(params, args.weights):
        require_output(weights_beside(output), inputs)
    platforms = platform_names(args)
    options = {"weights": args.weights, "overwrite": args.overwrite, "assumed": assumed}
    with progress_bar() as progress:
        progress(0, 2, f"exporting for {', '.join(platforms)}")
        export(output, params, config, platforms=platforms, **options)
        progress(1, 2, "comparing with jaxlstm.lstm")
        loaded = load_exported(output)
        difference = _largest_difference(loaded, params, config)
    warn_of_assumptions(args, selected)
    report = {
        "output": str(output),
        "bytes": output.stat().st_size,
        "weights": "inside" if loaded.params is None else str(weights_beside(output)),
        "platforms": list(loaded.exported.platforms),
        "config": config_to_dict(config, assumed),
        "largest_difference": difference,
    }
    text = f"{output}: {size(report['bytes'])} for {', '.join(platforms)}, {config}"
    return show_comparison(report, text, "jaxlstm.lstm", as_json=args.json)


def _largest_difference(loaded: Any, params: Any, config: Any) -> float | None:
    """Return the largest relative difference on random inputs, or None if it cannot run here."""
    import numpy as np

    from jaxlstm.functional import lstm

    if not runs_here(loaded.exported):
        return None
    rng = np.random.default_rng(0)
    dtype = loaded.exported.in_avals[-1].dtype
    shapes = [(5, 5, config.input_size), *config.state_shapes(5)]
    x, h_0, c_0 = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    expected, state = lstm(params, x, (h_0, c_0), config=config, backend="scan")
    outputs, final = loaded(x, (h_0, c_0))
    return relative_difference((outputs, *final), (expected, *state))
