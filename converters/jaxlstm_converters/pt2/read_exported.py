"""``read_exported_program``: a ``.pt2`` file as torch reads it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from jaxlstm._shared.imports import import_optional

if TYPE_CHECKING:
    import torch


def read_exported_program(path: str | os.PathLike[str]) -> torch.export.ExportedProgram:
    """Read a file with ``torch.export.load``, which may execute code that the file contains."""
    torch = import_optional("torch", "torch")
    from jaxlstm_converters.pt2.export_patches import quiet

    with quiet():
        try:
            return torch.export.load(os.fspath(path))
        except Exception as error:  # torch raises many types for a file of another release
            raise ValueError(
                f"torch {torch.__version__} cannot read {os.fspath(path)}: {type(error).__name__}: {error}"
            ) from error
