"""``read_exported_program``: a ``.pt2`` file as torch reads it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from jaxlstm._shared.imports import import_optional

if TYPE_CHECKING:
    import torch


def read_exported_program(
    path: str | os.PathLike[str], name: str | None = None
) -> torch.export.ExportedProgram:
    """Read a file, or the program of a name, with torch, which may execute code that the file contains."""
    torch = import_optional("torch", "torch")
    from jaxlstm_converters.pt2.trace.export_patches import quiet

    with quiet():
        try:
            if name is None:
                return torch.export.load(os.fspath(path))
            from torch.export.pt2_archive._package import load_pt2

            return load_pt2(os.fspath(path)).exported_programs[name]
        except Exception as error:  # torch raises many types for a file of another release
            raise ValueError(
                f"torch {torch.__version__} cannot read {os.fspath(path)}: {type(error).__name__}: {error}"
            ) from error
