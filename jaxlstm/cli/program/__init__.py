"""The commands on a ``.pt2`` file, which holds a whole program.

With ``--prefix`` the commands use one LSTM of the file, as from any other checkpoint.
"""

from __future__ import annotations

import argparse


def takes_program(args: argparse.Namespace) -> bool:
    """Return True if a command applies to a whole program."""
    from jaxlstm_converters.pt2._load_program import is_program

    return args.prefix is None and is_program(args.checkpoint)


def refuse_options(args: argparse.Namespace, **unused: str) -> None:
    """Raise if an option was given that has no meaning for a whole program.

    Args:
      args: the arguments.
      unused: name of an argument -> its option.
    """
    given = [option for name, option in unused.items() if getattr(args, name) not in (None, False)]
    if given:
        raise ValueError(
            f"{' and '.join(given)} cannot be used with a .pt2 program; for one LSTM of it pass --prefix"
        )
