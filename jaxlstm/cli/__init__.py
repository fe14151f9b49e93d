"""The command line: ``jaxlstm inspect | convert | check | run | export``.

Exit status: 0 for success, 1 if a result is wrong or something is missing, 2 for bad input or usage, which
is explained in one line on standard error. Ctrl-C gives 130, and 141 means that the reader of standard output
closed it, as in ``jaxlstm inspect FILE | head``.
"""

import argparse
import contextlib
import difflib
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from jaxlstm._shared.version import __version__
from jaxlstm.cli import check, convert, export, inspect, run
from jaxlstm.cli.options import option_of
from jaxlstm.cli.user_code import import_user_code

COMMANDS = (inspect, convert, check, run, export)
INTERRUPTED = 128 + signal.SIGINT
"""Exit status after Ctrl-C, as shells report it."""
OUTPUT_CLOSED = 128 + 13
"""Exit status after SIGPIPE, as shells report it. Windows has no ``signal.SIGPIPE``."""


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser that reports an error in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Bad input is reported in one line. ``JAXLSTM_DEBUG=1`` shows the traceback instead.
    """
    try:
        try:
            return _dispatch(argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes the rest of the output at exit, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OUTPUT_CLOSED


def _dispatch(argv: Sequence[str] | None) -> int:
    parser = _Parser(
        prog="jaxlstm",
        description="Run PyTorch LSTM checkpoints in JAX.",
        epilog="'jaxlstm COMMAND --help' describes a command. "
        "Exit status: 0 for success, 1 for a wrong or missing result, 2 for bad input or usage.",
    )
    parser.add_argument("--version", action="version", version=f"jaxlstm {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    args = _parse(parser, commands.choices, argv)
    if args.command is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        with warnings_in_one_line(args):
            for source in args.operators:
                import_user_code("--operators", source)
            return args.run(args)
    except KeyboardInterrupt as interrupt:
        if _debug():
            raise
        message = "; ".join(["interrupted", *getattr(interrupt, "__notes__", ())])
        print(f"jaxlstm {args.command}: {message}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except (ValueError, TypeError, OSError, ModuleNotFoundError) as error:
        if _debug():
            raise
        print(f"jaxlstm {args.command}: {in_one_line(error, args)}", file=sys.stderr)
        return 2


def _parse(
    parser: _Parser, commands: Mapping[str, argparse.ArgumentParser], argv: Sequence[str] | None
) -> argparse.Namespace:
    """Parse the arguments; report unknown ones for their command, with the closest option."""
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        subparser = commands.get(args.command, parser)
        name, options = unknown[0].partition("=")[0], subparser._option_string_actions
        close = difflib.get_close_matches(name, options, n=1, cutoff=0.7)
        hint = f"; did you mean {close[0]}?" if close else ""
        subparser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    return args


def _debug() -> bool:
    return bool(os.environ.get("JAXLSTM_DEBUG"))


def in_one_line(error: Exception, args: argparse.Namespace) -> str:
    """Return the message of an error as one line that names options instead of Python arguments.

    An argument of the library is named at the start of a message ("seed must be ...") or in advice ("pass
    overwrite=True"). If the command has an option of that name, the option is named.
    """
    if isinstance(error, OSError) and error.filename and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    else:
        text = str(error)
    names = "|".join(map(re.escape, vars(args)))
    text = re.sub(rf"^({names})(?= must\b| ')", lambda match: option_of(match[1]), text)
    text = re.sub(rf"\bpass ({names})=True\b", lambda match: f"pass {option_of(match[1])}", text)
    text = re.sub(rf"\bpass ({names})=", lambda match: f"pass {option_of(match[1])} ", text)
    return " ".join(text.split())


@contextlib.contextmanager
def warnings_in_one_line(args: argparse.Namespace) -> Iterator[None]:
    """Print each of Python's warnings as one line of the command, without the source line that caused it."""
    from jaxlstm_converters.porting_warning import PortingWarning

    printed: set[str] = set()

    def show(message: Any, *_: Any, **__: Any) -> None:
        text = " ".join(str(message).split())
        if text not in printed:
            printed.add(text)
            print(f"jaxlstm {args.command}: warning: {text}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", PortingWarning)
        warnings.showwarning = show
        yield
