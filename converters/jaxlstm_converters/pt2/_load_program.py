"""`load_program`: a `.pt2` file as a function in JAX."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from jaxlstm._shared.files import require_exists
from jaxlstm_converters.checkpoint.errors import CheckpointError
from jaxlstm_converters.checkpoint.formats.pt2_archive import is_pt2
from jaxlstm_converters.checkpoint.io.files import CheckpointFile
from jaxlstm_converters.checkpoint.io.zip_archive import Archive
from jaxlstm_converters.pt2._read_pt2 import ProgramFile, read_programs, read_pt2
from jaxlstm_converters.pt2._write_pt2 import ProgramWriter
from jaxlstm_converters.pt2.example import example_tensors

if TYPE_CHECKING:
    from jaxlstm.programs.program import Program


def load_program(path: str | os.PathLike[str], *, method: str | None = None) -> Program:
    """Return the program in a file of ``torch.export.save``, without torch.

    The file is parsed as data: nothing in it is executed, and no expression is evaluated.

    Args:
      path: a ``.pt2`` file of torch 2.6 or later.
      method: the name of a program in a file with several, see :func:`jaxlstm.save_programs`.

    Raises:
      ValueError: the file has no program of this name.
      CheckpointError: the file is not a program, is damaged or hostile, or has parts that are not supported.
      ProgramError: the graph uses unsupported operators, or was exported in training mode.
      OSError: the file cannot be opened.

    >>> program = jaxlstm.load_program("crnn.pt2")  # doctest: +SKIP
    >>> y = jax.jit(program)(program.params, x)  # doctest: +SKIP
    """
    return program_of(read_pt2(path, method))


def load_programs(path: str | os.PathLike[str]) -> dict[str, Program]:
    """Return the programs in a file of :func:`jaxlstm.save_programs`, or of torch's ``package_pt2``, by name.

    See :func:`jaxlstm.load_program` for the errors. ``torch.export.save`` names its only program "model".

    >>> decode_step = jaxlstm.load_programs("translator.pt2")["decode_step"]  # doctest: +SKIP
    """
    return {name: program_of(file) for name, file in read_programs(path).items()}


def is_program(path: str | os.PathLike[str]) -> bool:
    """Return True if a file is an archive of ``torch.export.save``."""
    require_exists(path)
    try:
        source = CheckpointFile(path)
        return source.read(0, min(2, source.size)) == b"PK" and is_pt2(Archive(source, check_crc=False))
    except CheckpointError:
        # read_checkpoint raises the error that explains the fault.
        return False


def program_of(file: ProgramFile) -> Program:
    """Return the program in a file that has been read."""
    # Imported here because it imports jax, which the other converters do without.
    from jaxlstm.programs.branches import Branches
    from jaxlstm.programs.inputs import require_tensors
    from jaxlstm.programs.program import Program

    example = partial(example_tensors, file.example, file.graph.inputs)
    program = Program(file.graph, file.tensors, write=ProgramWriter.of(file), example=example, copy=False)
    branches, sizes = ([*map(program_of, files)] for files in (file.branches, file.sizes))
    if branches or sizes:
        for other in (*branches, *sizes):
            require_tensors("params", program.params, other.params)
            require_tensors("buffers", program.buffers, other.buffers)
            other.params, other.buffers = program.params, program.buffers
        program.at_sizes = Branches(branches, sizes)
    return program
