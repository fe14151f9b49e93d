"""`write_source`: programs as Flax source and weights, two files that the user owns."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from jaxlstm.programs.program import Program
from jaxlstm_converters.pt2._load_program import load_programs
from jaxlstm_converters.source.files import SourceFiles, methods_of
from jaxlstm_converters.source.proof import unproven


def write_source(
    program_or_path: Program | Mapping[str, Program] | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    comments: bool = False,
) -> SourceFiles:
    """Write a program as Flax NNX source, and its weights as a safetensors file beside it.

    The source has one class for each class of torch module, with torch's names of classes, attributes and
    variables. It imports only jax, flax and jaxlstm. ``jaxlstm.load_state_dict(model, "crnn.safetensors")``
    fills the model, and so do the ``.pt2`` file and a state dict of the torch module. The same program gives
    the same bytes. ``jaxlstm convert`` also checks the written model against the program.

    Args:
      program_or_path: a program, a dict from the names of methods of one module to their programs, or a
        ``.pt2`` file. Methods become methods of one class, ``forward`` becomes ``__call__``.
      path: the file to write, such as ``crnn.py``; the weights go to ``crnn.safetensors``.
      overwrite: replace existing files.
      comments: write the lines of the torch module's code as comments.

    Returns:
      The files: their paths, the classes, and remarks about lines that no Flax user would have written, and
      about a comparison that was not possible.

    Raises:
      ValueError: ``path`` is not a file that Python can import, such as ``crnn.py``, the program has
        hundreds of modules inside one another, or programs are not methods of one module.
      FileExistsError: one of the files exists. Nothing is written.
      CheckpointError, ProgramError: as for ``load_programs``, or the source differs from the program.
      ModuleNotFoundError: ruff, which formats the source, is not installed.

    >>> jaxlstm.write_source("crnn.pt2", "crnn.py")  # doctest: +SKIP
    """
    programs = program_or_path
    if isinstance(programs, str | os.PathLike):
        programs = load_programs(programs)
    files = SourceFiles.of(programs, path, comments=comments)
    files.require_free(overwrite=overwrite)
    for name, program in methods_of(programs).items():
        if reason := unproven(files, program, files.methods[name]):
            what = "not compared" if len(files.methods) == 1 else f"{name} is not compared"
            remark = f"{what} with the program, since {reason}"
            files = replace(files, remarks=(*files.remarks, remark))
    files.write(overwrite=overwrite)
    return files
