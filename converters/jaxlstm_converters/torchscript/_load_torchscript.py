"""`load_torchscript`: a TorchScript archive as a torch module."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..checkpoint.io.files import CheckpointFile
from .archive import read_archive

if TYPE_CHECKING:
    import torch


def load_torchscript(path: str | os.PathLike[str] | torch.jit.ScriptModule) -> torch.nn.Module:
    """Return the module in a TorchScript archive, made from the text of its code.

    Nothing in the file is executed: the code is parsed and checked when it is read, and its methods are
    interpreted when they are called. They compute what TorchScript computes, and ``torch.export`` can trace
    them. The device of all tensors is the CPU.

    Args:
      path: a file of ``torch.jit.save`` by torch 1.4 or later, or a ScriptModule, which is saved to memory.

    Returns:
      A ``torch.nn.Module`` with the parameters, buffers, submodules, attributes and methods of the archive.

    Raises:
      CheckpointError: the file is not a TorchScript archive, is damaged or hostile, or has parts that are not
        supported, such as quantized weights. A method that reaches an operator or statement that is not
        supported raises it, too, with file, line and text.
      OSError: the file cannot be opened.

    >>> module = jaxlstm.load_torchscript("silero_vad.jit")  # doctest: +SKIP
    >>> program = jaxlstm.from_module(module._model, (x, state))  # doctest: +SKIP
    """
    # Imported here because they import torch, which the command line's `inspect` does without.
    from .layers import script_archive
    from .modules import ModuleTree

    is_path = isinstance(path, (str, os.PathLike))
    return ModuleTree(read_archive(CheckpointFile(path)) if is_path else script_archive(path)).root()
