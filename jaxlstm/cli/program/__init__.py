"""The commands on a ``.pt2`` file, which holds a whole program.

With ``--prefix`` the commands use one LSTM of the file, as from any other checkpoint.
"""

from __future__ import annotations

import argparse

from jaxlstm._shared.paths import require_exists


def is_program(path: str) -> bool:
    """Return True if a file is an archive of ``torch.export.save``.

    Raises:
      OSError: the file cannot be opened.
    """
    from jaxlstm_converters.checkpoint.errors import CheckpointError
    from jaxlstm_converters.checkpoint.formats.pt2_archive import is_pt2
    from jaxlstm_converters.checkpoint.io.files import CheckpointFile
    from jaxlstm_converters.checkpoint.io.zip_archive import Archive

    require_exists(path)
    try:
        source = CheckpointFile(path)
        return source.read(0, min(2, source.size)) == b"PK" and is_pt2(Archive(source, check_crc=False))
    except CheckpointError:
        # The reader of checkpoints explains what is wrong with the file.
        return False


def takes_program(args: argparse.Namespace) -> bool:
    """Return True if a command applies to a whole program."""
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
