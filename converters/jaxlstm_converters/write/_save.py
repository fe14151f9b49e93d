"""Save the parameters and config of an LSTM to a file, atomically."""

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxlstm._shared.files import require_folder_of, require_path, require_replaceable, write_atomically
from jaxlstm._shared.progress import Progress, no_progress, reported_bytes
from jaxlstm._shared.safetensors import safetensors_bytes
from jaxlstm.layer.config import ASSUMABLE, METADATA_KEY, LSTMConfig, saved_config, saved_metadata
from jaxlstm.layer.params import check_params, param_shapes
from jaxlstm_converters.checkpoint import CheckpointError, read_checkpoint
from jaxlstm_converters.write.torch_zip import has_marker, torch_bytes

FORMATS = {"safetensors": (".safetensors",), "torch": (".pt", ".pth")}
"""The name of each format, and its suffixes."""


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

    The file is replaced in one step, so that a crash leaves either the old file or the new one. If ``path``
    is a symbolic link, the link is replaced and its target is left as it is.

    Args:
      path: the file. It may exist if ``save`` wrote it.
      params: arrays under torch's names.
      config: the LSTM. The file records all its arguments.
      prefix: put before each name, such as ``"encoder.lstm."``.
      metadata: additional strings for the header of a safetensors file.
      format: "safetensors" or "torch" (for ``torch.load(weights_only=True)``). None selects by the suffix:
        ``.safetensors``, ``.pt`` or ``.pth``.
      overwrite: replace an existing file that ``save`` did not write. A directory is never replaced.
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
    _check_format(format, metadata)
    if not set(assumed) <= set(ASSUMABLE):
        raise ValueError(f"assumed must name some of {ASSUMABLE}, got {tuple(assumed)}")
    require_folder_of(path)
    check_params(params, config)
    arrays = {name: np.asarray(params[name]) for name in param_shapes(config)}
    require_replaceable(path, overwrite=overwrite, is_ours=is_saved_file)
    tensors = {prefix + name: array for name, array in arrays.items()}
    config_text = saved_metadata(prefix, config, assumed)
    parts: Iterable[bytes | memoryview]
    if format == "torch":
        parts = [torch_bytes(tensors, config_text)]
    else:
        parts = safetensors_bytes(tensors, {"format": "pt", **(metadata or {}), METADATA_KEY: config_text})
    total = sum(array.nbytes for array in arrays.values())
    write_atomically(path, reported_bytes(parts, total, f"writing {path.name}", progress or no_progress))


def _check_format(format: str, metadata: Mapping[str, str] | None) -> None:
    """Raise if the format is unknown or does not support an argument."""
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    if metadata and format != "safetensors":
        raise ValueError(f"metadata is supported by safetensors files, not by {format}")
    if metadata and METADATA_KEY in metadata:
        raise ValueError(f"metadata must not have the key {METADATA_KEY!r}, which holds the config")


def format_of(path: Path) -> str:
    """Return the format that the suffix of a path selects."""
    for name, suffixes in FORMATS.items():
        if path.suffix in suffixes:
            return name
    listed = ", ".join(f"{name} ({', '.join(suffixes)})" for name, suffixes in FORMATS.items())
    raise ValueError(
        f"cannot infer the format from the suffix {path.suffix!r}; the formats are {listed}: choose such a "
        "suffix, or pass format=NAME"
    )


def is_saved_file(path: Path) -> bool:
    """Return True if :func:`save` wrote the file and it holds nothing but that LSTM."""
    if has_marker(path):
        return True
    try:
        checkpoint = read_checkpoint(path)
        prefix, config, _ = saved_config(checkpoint.metadata.get(METADATA_KEY, ""))
    except (CheckpointError, OSError, ValueError):
        return False
    names = {prefix + name for name in param_shapes(config)}
    return checkpoint.container == "safetensors" and set(checkpoint) == names
