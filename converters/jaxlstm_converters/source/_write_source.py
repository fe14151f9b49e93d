"""`write_source`: a program as Flax source and weights, two files that the user owns."""

from __future__ import annotations

import os
from dataclasses import replace

from jaxlstm.programs.program import Program
from jaxlstm_converters.pt2._load_program import load_program
from jaxlstm_converters.source.files import SourceFiles
from jaxlstm_converters.source.proof import unproven


def write_source(
    program_or_path: Program | str | os.PathLike[str],
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
      program_or_path: a program, or a ``.pt2`` file for ``jaxlstm.load_program``.
      path: the file to write, such as ``crnn.py``; the weights go to ``crnn.safetensors``.
      overwrite: replace existing files.
      comments: write the lines of the torch module's code as comments.

    Returns:
      The files: their paths, the classes, and remarks about lines that no Flax user would have written, and
      about a comparison that was not possible.

    Raises:
      ValueError: ``path`` is not a file that Python can import, such as ``crnn.py``, or the program has
        hundreds of modules inside one another.
      FileExistsError: one of the files exists. Nothing is written.
      CheckpointError, ProgramError: as for ``load_program``, or the source differs from the program.
      ModuleNotFoundError: ruff, which formats the source, is not installed.

    >>> jaxlstm.write_source("crnn.pt2", "crnn.py")  # doctest: +SKIP
    """
    program = program_or_path if isinstance(program_or_path, Program) else load_program(program_or_path)
    files = SourceFiles.of(program, path, comments=comments)
    files.require_free(overwrite=overwrite)
    if reason := unproven(files, program):
        remark = f"not compared with the program, since {reason}"
        files = replace(files, remarks=(*files.remarks, remark))
    files.write(overwrite=overwrite)
    return files
