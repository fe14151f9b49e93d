"""`save_programs`: several methods of a module as one `.pt2` file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxlstm_converters.pt2._write_pt2 import write_programs

if TYPE_CHECKING:
    from jaxlstm.programs.program import Program


def save_programs(
    path: str | os.PathLike[str],
    programs: Mapping[str, Program],
    params: Mapping[str, Any] | None = None,
    *,
    buffers: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write the methods of a module as one ``.pt2`` file, which holds each tensor once.

    :func:`jaxlstm.load_programs` reads it, and so does torch:
    ``torch.export.pt2_archive.load_pt2(path).exported_programs``.

    Args:
      path: the file.
      programs: name of a method, such as "decode_step" -> its program.
      params: parameters of every program; by default each has its own.
      buffers: buffers of every program; by default each has its own.
      overwrite: replace an existing file that jaxlstm did not write.

    Raises:
      ValueError: ``programs`` is empty, or the name of a program is not an identifier.
      ProgramError, FileExistsError, TypeError: as for ``Program.save``.

    >>> jaxlstm.save_programs("translator.pt2", {"encode": encode, "decode_step": step})  # doctest: +SKIP
    """
    if not programs or not all(name.isidentifier() for name in programs):
        raise ValueError(f"programs must be a dict of programs by names of methods, got {[*programs]}")
    saved = (program.as_saved(name, params, buffers) for name, program in programs.items())
    write_programs(Path(path), {name: x for x in saved for name, x in x.items()}, overwrite=overwrite)
