"""The command line: ``jaxlstm inspect | port | check | run | export``.

Exit status: 0 it holds, 1 it does not, 2 bad input or usage, told in one line on standard error.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from jaxlstm._version import __version__
from jaxlstm.cli import check, export, inspect, port, run

COMMANDS = (inspect, port, check, run, export)


class _Parser(argparse.ArgumentParser):
    """argparse, but an error is one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Bad input ends in one line; ``JAXLSTM_DEBUG=1`` gives the traceback instead.
    """
    parser = _Parser(prog="jaxlstm", description="PyTorch LSTM checkpoints in JAX.")
    parser.add_argument("--version", action="version", version=f"jaxlstm {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    args = parser.parse_args(argv)
    try:
        return args.run(args)
    except (ValueError, TypeError, OSError, ModuleNotFoundError) as error:
        if os.environ.get("JAXLSTM_DEBUG"):
            raise
        message = " ".join(str(error).split())
        print(f"jaxlstm {args.command}: {message}", file=sys.stderr)
        return 2
