"""Save the parameters and config of an LSTM to a file, atomically."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxlstm._shared.atomic import require_replaceable, write_atomically
from jaxlstm._shared.paths import require_folder_of, require_path
from jaxlstm._shared.progress import Progress, no_progress, reported_bytes
from jaxlstm._shared.safetensors import safetensors_bytes
from jaxlstm.layer.config import LSTMConfig
from jaxlstm.layer.config_json import ASSUMABLE, METADATA_KEY, saved_metadata
from jaxlstm.layer.params import check_params, param_shapes
from jaxlstm_converters.write import flax_files
from jaxlstm_converters.write.existing import is_saved_file
from jaxlstm_converters.write.npz import npz_bytes
from jaxlstm_converters.write.torch_zip import torch_bytes

FORMATS = ("safetensors", "torch", "npz", "msgpack", "orbax")
_FORMAT_OF_SUFFIX = {
    ".safetensors": "safetensors",
    ".pt": "torch",
    ".pth": "torch",
    ".npz": "npz",
    ".msgpack": "msgpack",
    "": "orbax",
}


def save(
    path: str | os.PathLike[str],
    params: Mapping[str, Any],
    config: LSTMConfig,
    *,
    prefix: str = "",
    metadata: Mapping[str, str] | None = None,
    format: str | None = None,
    overwrite: bool = False,
    assumed: Collection[str] = (),
    progress: Progress | None = None,
) -> None:
    """Write parameters and config to a file that ``jaxlstm.load`` reads.

    The file is replaced in one step, so that a crash leaves either the old file or the new one. An Orbax
    directory is replaced by two renames. If ``path`` is a symbolic link, the link is replaced and its
    target is left as it is.

    Args:
      path: the file, or for Orbax the directory. It may exist if ``save`` wrote it.
      params: arrays under torch's names.
      config: the LSTM. The file records all its arguments.
      prefix: put before each name in a safetensors, torch or npz file, such as ``"encoder.lstm."``.
      metadata: additional strings for the header of a safetensors file.
      format: "safetensors", "torch" (for ``torch.load(weights_only=True)``), "npz" (NumPy), "msgpack" (Flax)
        or "orbax" (a directory). None selects by the suffix: ``.safetensors``, ``.pt``, ``.pth``, ``.npz``,
        ``.msgpack``, or no suffix for Orbax.
      overwrite: replace an existing file that ``save`` did not write. Such a directory is never replaced.
      assumed: the arguments out of "batch_first" and "dropout" that the source of the LSTM does not record.
        The file lists them, and ``load`` warns again.
      progress: called as ``progress(done, total, description)`` with numbers of bytes.

    Raises:
      ValueError: ``params`` do not fit ``config``, the format is unknown, or it does not support an argument.
      FileExistsError: ``path`` exists and ``save`` did not write it.
      OSError: the file cannot be written, for example because the disk is full. The old file is unchanged.

    >>> params, config = jaxlstm.from_torch(torch.nn.LSTM(3, 5))
    >>> jaxlstm.save("lstm.safetensors", params, config)
    """
    require_path(path, "call jaxlstm.save(path, params, config)")
    path = Path(path)
    format = format or format_of(path)
    _check_format(format, prefix, metadata)
    if not set(assumed) <= set(ASSUMABLE):
        raise ValueError(f"assumed must name some of {ASSUMABLE}, got {tuple(assumed)}")
    require_folder_of(path)
    check_params(params, config)
    arrays = {name: np.asarray(params[name]) for name in param_shapes(config)}
    if format == "orbax":
        flax_files.write_orbax(path, arrays, config, assumed, overwrite=overwrite)
        return
    require_replaceable(path, overwrite=overwrite, is_ours=is_saved_file)
    named = {prefix + name: array for name, array in arrays.items()}
    config_text = saved_metadata(prefix, config, assumed)
    parts: Iterable[bytes | memoryview]
    if format == "msgpack":
        parts = [flax_files.msgpack_bytes(arrays, config, assumed)]
    elif format == "torch":
        parts = [torch_bytes(named, config_text)]
    elif format == "npz":
        parts = [npz_bytes(named, config_text)]
    else:
        parts = safetensors_bytes(named, {"format": "pt", **(metadata or {}), METADATA_KEY: config_text})
    total = sum(array.nbytes for array in arrays.values())
    write_atomically(path, reported_bytes(parts, total, f"writing {path.name}", progress or no_progress))


def _check_format(format: str, prefix: str, metadata: Mapping[str, str] | None) -> None:
    """Raise if the format is unknown or does not support an argument."""
    if format not in FORMATS:
        raise ValueError(f"format must be one of {FORMATS}, got {format!r}")
    if prefix and format not in ("safetensors", "torch", "npz"):
        raise ValueError(f"prefix is supported by safetensors, torch and npz files, not by {format}")
    if metadata and format != "safetensors":
        raise ValueError(f"metadata is supported by safetensors files, not by {format}")
    if metadata and METADATA_KEY in metadata:
        raise ValueError(f"metadata must not have the key {METADATA_KEY!r}, which holds the config")


def format_of(path: Path) -> str:
    """Return the format that the suffix of a path selects."""
    if path.suffix not in _FORMAT_OF_SUFFIX:
        raise ValueError(
            f"cannot infer the format from the suffix {path.suffix!r}; pass format=NAME, with NAME one of "
            f"{', '.join(FORMATS)}"
        )
    return _FORMAT_OF_SUFFIX[path.suffix]
