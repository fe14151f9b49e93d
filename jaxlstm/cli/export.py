"""``jaxlstm export FILE -o OUT``: export one LSTM as a StableHLO artifact that runs without jaxlstm."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from jaxlstm._shared.table import size
from jaxlstm.cli.arguments import add_command, add_unrecorded, load_selected
from jaxlstm.cli.output import checkpoint_files, require_output

TOLERANCE = 1e-5
"""Largest accepted difference between the artifact and ``jaxlstm.lstm``, relative to the largest result."""


def add_parser(commands: Any) -> None:
    """Add the command's parser."""
    parser = add_command(
        commands,
        "export",
        run,
        help="export one LSTM as a StableHLO artifact",
        description="Export one LSTM of a PyTorch checkpoint as a jax.export artifact, a function "
        "(inputs, h_0, c_0) -> (outputs, h_n, c_n) of any batch size and length that runs without jaxlstm. "
        "The artifact is read back, run and compared with jaxlstm.lstm. "
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
    from jaxlstm.config_json import config_to_dict
    from jaxlstm.inference.artifact import export, goes_beside, load_exported, weights_beside

    output = Path(args.output)
    inputs = checkpoint_files(args.checkpoint)
    require_output(output, inputs)
    params, config = load_selected(args)
    if goes_beside(params, args.weights):
        require_output(weights_beside(output), inputs)
    platforms = [name.strip() for name in args.platforms.split(",")]
    options = {"weights": args.weights, "overwrite": args.overwrite}
    export(output, params, config, platforms=platforms, **options)
    loaded = load_exported(output)
    difference = _largest_difference(loaded, params, config)
    report = {
        "output": str(output),
        "bytes": output.stat().st_size,
        "weights": "inside" if loaded.params is None else str(weights_beside(output)),
        "platforms": list(loaded.exported.platforms),
        "config": config_to_dict(config),
        "largest_difference": difference,
    }
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        print(f"{output}: {size(report['bytes'])} for {', '.join(platforms)}, {config}")
        print(f"weights: {report['weights']}")
        print(
            "not run: this machine has none of these platforms"
            if difference is None
            else f"read back and run: largest difference from jaxlstm.lstm {difference:.1e}"
        )
    return 0 if difference is None or difference <= TOLERANCE else 1


def _largest_difference(loaded: Any, params: Any, config: Any) -> float | None:
    """Return the largest relative difference on random inputs, or None if it cannot run here."""
    import jax
    import numpy as np

    from jaxlstm.functional import lstm

    here = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    if here not in loaded.exported.platforms:
        return None
    rng = np.random.default_rng(0)
    dtype = loaded.exported.in_avals[-1].dtype
    shapes = [(5, 5, config.input_size), *config.state_shapes(5)]
    x, h_0, c_0 = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    expected, state = lstm(params, x, (h_0, c_0), config=config, backend="scan")
    outputs, final = loaded(x, (h_0, c_0))
    differences = []
    for a, b in zip((outputs, *final), (expected, *state), strict=True):
        a, b = (np.asarray(leaf, np.float64) for leaf in (a, b))
        differences.append(np.abs(a - b).max() / np.maximum(1.0, np.abs(b).max()))
    return float(np.max(differences))  # np.max propagates NaN, which Python's max may drop
