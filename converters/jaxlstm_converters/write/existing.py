"""Recognize files of ``jaxlstm.save``, which it may replace."""

from __future__ import annotations

from pathlib import Path

from jaxlstm.layer.config_json import METADATA_KEY, saved_config
from jaxlstm.layer.params import param_shapes
from jaxlstm_converters.checkpoint import CheckpointError, read_checkpoint
from jaxlstm_converters.write import flax_files, torch_zip


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
        prefix, config, _ = saved_config(checkpoint.metadata.get(METADATA_KEY, ""))
    except (CheckpointError, OSError, ValueError, ModuleNotFoundError):
        return False
    names = {prefix + name for name in param_shapes(config)}
    return checkpoint.container in ("safetensors", "npz") and set(checkpoint) == names
