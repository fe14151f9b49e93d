"""Run the command line in this process."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple

from jaxlstm import cli


class Result(NamedTuple):
    """Exit status and output of a command."""

    status: int
    out: str
    err: str


class Screen(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def jaxlstm_command(*arguments: object) -> Result:
    """Run ``jaxlstm ARGUMENTS``."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as error:  # raised by argparse
            status = int(error.code or 0)
    return Result(status, out.getvalue(), err.getvalue())
