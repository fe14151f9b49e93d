"""``jaxlstm export CKPT -o OUT``: one LSTM of a checkpoint as a StableHLO artifact that runs on its own."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from jaxlstm.cli.port import add_selection, selected


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "export",
        help="write an LSTM as one StableHLO file",
        description="Write one LSTM of a checkpoint as a jax.export artifact, (inputs, h_0, c_0) -> "
        "(outputs, h_n, c_n) of any batch and time, open it again and compare. Status 0: the same; 1: not.",
    )
    parser.add_argument("checkpoint", metavar="CKPT", help="the file to read")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="model.stablehlo, say")
    add_selection(parser)
    parser.add_argument(
        "--platforms",
        default="cpu,cuda,tpu",
        help="where it shall run, of cpu, cuda, rocm and tpu (default cpu,cuda,tpu)",
    )
    parser.add_argument(
        "--weights",
        choices=("auto", "inside", "beside"),
        default="auto",
        help="in OUT, or beside it in a safetensors file; auto: inside up to 512 MiB",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write, read back, compare with ``lstm`` where this machine can run it: 0 if equal, 1 if not."""
    from jaxlstm.inference.artifact import export, load_exported, weights_beside
    from jaxlstm_converters.config_json import config_to_dict

    params, config = selected(args)
    output = Path(args.output)
    platforms = [name.strip() for name in args.platforms.split(",")]
    _spare_the_checkpoint(args, output, params)
    export(output, params, config, platforms=platforms, weights=args.weights)
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
        print(f"{output}: {report['bytes']} bytes for {', '.join(platforms)}, {config}")
        print(f"weights: {report['weights']}")
        print(
            "not run: it is for none of the platforms that are here"
            if difference is None
            else f"read back and run: at most {difference:.1e} from lstm"
        )
    return 0 if difference is None or difference <= 1e-5 else 1


def _spare_the_checkpoint(args: argparse.Namespace, output: Path, params: Any) -> None:
    """Raise where a file that is to be written is the one that was read."""
    from jaxlstm.inference.artifact import goes_beside, weights_beside

    written = [output]
    if goes_beside(params, args.weights):
        written.append(weights_beside(output))
    for path in written:
        if path.exists() and path.samefile(args.checkpoint):
            raise ValueError(
                f"-o {output}: {path} would be replaced, which is the checkpoint; take another name"
            )


def _largest_difference(loaded: Any, params: Any, config: Any) -> float | None:
    """Of all results, on random inputs, relative to the largest; None if the artifact cannot run here."""
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
    wanted, state = lstm(params, x, (h_0, c_0), config=config, backend="scan")
    outputs, final = loaded(x, (h_0, c_0))
    differences = []
    for a, b in zip((outputs, *final), (wanted, *state), strict=True):
        a, b = (np.asarray(leaf, np.float64) for leaf in (a, b))
        differences.append(np.abs(a - b).max() / np.maximum(1.0, np.abs(b).max()))
    return float(np.max(differences))  # NaN if one of them is, which Python's max may pass over
