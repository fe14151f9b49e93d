"""``jaxlstm check`` on a ``.pt2`` file: compare the program in JAX with the same program in torch."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jaxlstm._shared.progress import Progress
from jaxlstm.cli.program import refuse_options

if TYPE_CHECKING:
    from jaxlstm.check import Report
    from jaxlstm.programs.program import Program


def load_checked(args: argparse.Namespace) -> Program:
    """Return the program to check, after a check of the options."""
    from jaxlstm_converters.pt2._load_program import load_program

    unused = {name: f"--{name.replace('_', '-')}" for name in ("port", "matrix", "batch_first", "dropout")}
    refuse_options(args, dtype="--dtype", **unused)
    return load_program(args.checkpoint)


def check_program(
    program: Program, args: argparse.Namespace, device: Any, progress: Progress
) -> Iterator[tuple[str, Report]]:
    """Yield the report on a program."""
    import jax

    from jaxlstm.check import verify_model
    from jaxlstm.check.reference.torch_model import read_exported_program
    from jaxlstm.inference.program_artifact import as_arguments
    from jaxlstm.inference.random_inputs import random_inputs

    tensors = random_inputs(program, seed=args.seed)
    if tensors is None:
        raise ValueError(
            f"{args.checkpoint}: the program refuses inputs of all sizes that were tried; call "
            "jaxlstm.check.verify_model with an example of yours"
        )
    example, kwargs = as_arguments(program, tensors)
    exported = read_exported_program(args.checkpoint)
    with jax.default_device(device):
        yield "program", verify_model(program, exported, example, kwargs, seed=args.seed, progress=progress)
