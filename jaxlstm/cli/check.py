"""``jaxlstm check FILE``: compare jitted JAX with torch on a checkpoint.

The JAX code is jaxlstm's own layer, a whole program or, with ``--port``, a function of the user.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxlstm._shared.files import require_replaceable, write_atomically
from jaxlstm._shared.progress import Progress, progress_bar
from jaxlstm._shared.sections import is_html_page
from jaxlstm.cli.options import (
    add_command,
    add_script_options,
    add_unrecorded,
    checkpoint_files,
    load_selected,
    path_argument,
    refuse_options,
    require_output,
    takes_program,
    takes_script,
)
from jaxlstm.cli.user_code import import_user_code
from jaxlstm.cli.verdict import Reports, command_line, merge_reports, verdict_text

if TYPE_CHECKING:
    from jaxlstm.check import Report
    from jaxlstm.programs.program import Program

BACKENDS = ("cpu", "gpu", "tpu")
DTYPES = ("float16", "bfloat16", "float32", "float64")


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "check",
        run,
        help="compare jitted JAX with torch on a checkpoint or .pt2 program",
        description="Compare jitted JAX with torch and with a float64 oracle: outputs, h_n, c_n and every "
        "gradient, on inputs chosen to reveal faults. A .pt2 program is compared as a whole and node by "
        "node, unless --prefix selects one LSTM of it; torch.export.load reads it, which may execute code in "
        "the file. With --input a module of a TorchScript archive is compared, whose code torch executes. "
        "Exit status 0: they match; 1: they do not.",
    )
    add_unrecorded(parser)
    add_script_options(parser)
    parser.add_argument(
        "--port",
        metavar="FILE.py:NAME",
        help="check this function instead of jaxlstm's layer: port(inputs, initial_state, seq_lengths"
        "[, *, params]) -> (outputs, (h_n, c_n)), time-major; the file is executed",
    )
    parser.add_argument(
        "--backend",
        choices=(*BACKENDS, "all"),
        help="the device for JAX; all: each that is present (default: JAX's default device)",
    )
    parser.add_argument(
        "--dtype",
        action="append",
        choices=DTYPES,
        help="the working dtype; may be repeated (default: float32 and float64, all with --matrix)",
    )
    parser.add_argument(
        "--matrix",
        action="store_true",
        default=None,
        help="check only the results, over dtype x batch x length x jit, and print one table",
    )
    parser.add_argument(
        "--verbose", action="store_true", help="print every report in full, with settings and environment"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the inputs (default: 0)")
    parser.add_argument("--report", type=path_argument, metavar="FILE.html", help="also write an HTML page")


def run(args: argparse.Namespace) -> int:
    """Check on each backend and in each dtype, and print the verdict. Return 0 if all hold, else 1."""
    if args.report:
        _require_writable(args)
    subject = _load(args)
    devices, absent = _devices(args.backend)
    reports: Reports = {}
    with progress_bar() as progress:
        for backend, device in devices.items():
            labelled = _labelled(progress, backend)
            for dtype, report in subject.check(device, labelled):
                run_of = {"backend": backend} | ({"dtype": dtype} if dtype in DTYPES else {})
                reports[backend, dtype] = dataclasses.replace(report, again=command_line(args, **run_of))
    if args.report:
        merged = merge_reports(args, subject.value, reports, absent)
        write_atomically(Path(args.report), [merged.to_html().encode()])
    text = verdict_text(args, subject.name, reports, absent)
    print(json.dumps(_as_json(args.checkpoint, reports, absent), indent=2) if args.json else text)
    return 0 if all(report.ok for report in reports.values()) else 1


def _require_writable(args: argparse.Namespace) -> None:
    """Raise, before anything is computed, if ``--report`` cannot be written or would replace an input."""
    report = Path(args.report)
    inputs = checkpoint_files(args.checkpoint)
    if args.port:
        inputs.append(Path(args.port.partition(":")[0]))
    require_output(report, inputs, option="--report")
    require_replaceable(report, overwrite=args.overwrite, is_ours=is_html_page)


class _Subject(NamedTuple):
    """The port or program to check, with a function (device, progress) -> reports by dtype."""

    name: str
    value: Any
    check: Callable[[Any, Progress], Iterator[tuple[str, Report]]]


def _load(args: argparse.Namespace) -> _Subject:
    refused = ("dtype", "port", "matrix", "batch_first", "dropout")
    if takes_script(args):
        from jaxlstm_converters.torchscript.example import script_program

        refuse_options(args, *refused, "method")
        program, example = script_program(args.checkpoint, args.submodule, None, args.input)
        return _Subject("the module", program, partial(_check_script, program, example, args))
    if takes_program(args):
        from jaxlstm_converters.pt2._load_program import load_program

        refuse_options(args, *refused)
        program = load_program(args.checkpoint, method=args.method)
        return _Subject("the program", program, partial(_check_program, program, args))
    params, config, *_ = load_selected(args)
    port = load_port(args.port) if args.port else None
    return _Subject(args.port or "jaxlstm.lstm", config, partial(_check, port, params, config, args))


def _devices(backend: str | None) -> tuple[dict[str, Any], list[str]]:
    """Return the first device of each requested backend, and the backends of "all" that are absent."""
    import jax

    present, absent = {}, []
    for name in BACKENDS if backend == "all" else [backend]:
        try:
            device = jax.devices(name)[0]
            present[device.platform if name is None else name] = device
        except RuntimeError as error:  # JAX raises it for a platform without devices.
            if backend != "all":
                raise ValueError(f"--backend {name}: JAX finds no such device") from error
            absent.append(name)
    return present, absent


def _check(
    port: Callable[..., Any] | None,
    params: Any,
    config: Any,
    args: argparse.Namespace,
    device: Any,
    progress: Progress,
) -> Iterator[tuple[str, Report]]:
    """Yield a report for each dtype or, with ``--matrix``, one report over every combination."""
    import jax

    from jaxlstm.check import verify, verify_matrix

    with jax.default_device(device):
        if args.matrix:
            options: Any = {"dtypes": args.dtype or DTYPES, "seed": args.seed, "progress": progress}
            yield "matrix", verify_matrix(port, params, config, **options)
            return
        for dtype in args.dtype or ("float32", "float64"):
            options = {"dtype": dtype, "seed": args.seed, "progress": _labelled(progress, dtype)}
            yield dtype, verify(port, params, config, **options)


def _labelled(progress: Progress, label: str) -> Progress:
    return lambda done, total, step: progress(done, total, f"{label}: {step}")


def _as_json(checkpoint: str, reports: Reports, absent: list[str]) -> Any:
    return {
        "checkpoint": str(checkpoint),
        "ok": all(report.ok for report in reports.values()),
        "not_run": absent,
        "reports": [
            {"backend": backend, "dtype": dtype, **json.loads(report.to_json())}
            for (backend, dtype), report in reports.items()
        ],
    }


def _check_program(
    program: Program, args: argparse.Namespace, device: Any, progress: Progress
) -> Iterator[tuple[str, Report]]:
    """Yield the report on a program."""
    import jax

    from jaxlstm.check import verify_model
    from jaxlstm.check.cases.case import Case
    from jaxlstm.check.exceptions import describe
    from jaxlstm.check.reference.torch_model import TorchModel
    from jaxlstm.inference.random_inputs import random_inputs
    from jaxlstm.programs.inputs import as_arguments
    from jaxlstm_converters.pt2.read_exported import read_exported_program

    tensors = random_inputs(program, seed=args.seed)
    if tensors is None:
        raise ValueError(
            f"{args.checkpoint}: the program refuses inputs of all sizes that were tried; call "
            "jaxlstm.check.verify_model with your own example"
        )
    if any(node.op.startswith("jaxlstm.") for node in program.graph.nodes):
        import_module("jaxlstm_converters.pt2.packed")  # defines these operators in torch
    exported = read_exported_program(args.checkpoint, args.method)
    random, saved = as_arguments(program.graph, tensors), program.example
    for example, kwargs in (random, saved or random):
        try:
            TorchModel(exported).run(Case.of_model("example", example, kwargs))
            break
        except Exception as error:  # A model raises any type.
            refusal = error
    else:
        raise ValueError(
            f"{args.checkpoint}: torch refuses random inputs ({describe(refusal)}); call "
            "jaxlstm.check.verify_model with your own example"
        ) from refusal
    with jax.default_device(device):
        yield "program", verify_model(program, exported, example, kwargs, seed=args.seed, progress=progress)


def _check_script(
    program: Program, example: tuple[Any, ...], args: argparse.Namespace, device: Any, progress: Progress
) -> Iterator[tuple[str, Report]]:
    """Yield the report on a module of a TorchScript archive."""
    import jax

    from jaxlstm.check import verify_model
    from jaxlstm.check.reference.torch_model import load_script

    module = load_script(args.checkpoint, args.submodule or "")
    with jax.default_device(device):
        yield "program", verify_model(program, module, example, seed=args.seed, progress=progress)


def load_port(spec: str) -> Callable[..., Any]:
    """Load the callable of "FILE.py:NAME" or "package.module:NAME". The default name is ``port``.

    A file is executed with its folder on the path. A module is also searched for in the working directory.
    """
    source, _, name = spec.partition(":")
    name = name or "port"
    module = import_user_code(f"--port {spec}", source)
    port = getattr(module, name, None)
    if callable(port):
        return port
    problem = "is not callable" if hasattr(module, name) else "does not exist"
    functions = [
        attribute
        for attribute, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", None) == module.__name__
    ]
    choices = f" ({', '.join(functions)})" if functions else ""
    raise ValueError(
        f"--port {spec}: {name} {problem} in {source}; name one of its functions{choices} as FILE.py:NAME"
    )
