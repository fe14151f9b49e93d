"""Protect existing files: recognize files of ``jaxlstm.save``, and refuse to replace others."""

from __future__ import annotations

import os
from pathlib import Path

from jaxlstm.config_json import METADATA_KEY, saved_config
from jaxlstm.params import param_shapes
from jaxlstm_converters.checkpoint import CheckpointError, read_checkpoint
from jaxlstm_converters.write import flax_files, torch_zip


def require_replaceable(path: Path, *, overwrite: bool) -> None:
    """Raise if writing a file at ``path`` would destroy something that ``jaxlstm.save`` did not write.

    ``overwrite`` permits to replace any file, but never a directory or a device.

    Raises:
      FileExistsError: ``path`` exists and must not be replaced.
    """
    if not os.path.lexists(path):
        return
    if path.exists() and not path.is_file():
        kind = "a directory" if path.is_dir() else "not a regular file"
        raise FileExistsError(f"{path} is {kind}; choose another path")
    if not overwrite and not is_saved_file(path):
        raise FileExistsError(
            f"{path} exists and was not written by jaxlstm; choose another path, or pass overwrite=True "
            "(--overwrite) to replace it"
        )


def is_saved_file(path: Path) -> bool:
    """Return True if ``jaxlstm.save`` wrote the file and it holds nothing but that LSTM."""
    if not path.is_file():
        return False
    try:
        if flax_files.is_msgpack(path):
            flax_files.read_msgpack(path)
            return True
        if torch_zip.has_marker(path):
            return True
        checkpoint = read_checkpoint(path)
        prefix, config = saved_config(checkpoint.metadata.get(METADATA_KEY, ""))
    except (CheckpointError, OSError, ValueError, ModuleNotFoundError):
        return False
    names = {prefix + name for name in param_shapes(config)}
    return checkpoint.container == "safetensors" and set(checkpoint) == names
