"""Read and write Flax msgpack files and Orbax directories.

Both hold ``{"params": {torch's name: array}}``, which Linen's ``apply`` takes, and the config of the LSTM.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from jaxlstm._shared.optional import import_optional
from jaxlstm._shared.safetensors import DTYPE_CODES
from jaxlstm.layer.config import LSTMConfig
from jaxlstm.layer.config_json import METADATA_KEY, assumed_arguments, config_from_dict, config_to_dict
from jaxlstm.layer.params import check_params
from jaxlstm_converters.checkpoint import CheckpointError
from jaxlstm_converters.lstm.selected import SelectedLSTM

Arrays = dict[str, np.ndarray]
_ORBAX_METADATA = "_CHECKPOINT_METADATA"


def msgpack_bytes(params: Arrays, config: LSTMConfig, assumed: Collection[str] = ()) -> bytes:
    """Return ``{"params": ..., "config": ...}`` as bytes for ``flax.serialization.msgpack_restore``."""
    serialization = import_optional("flax.serialization", "flax")
    return serialization.msgpack_serialize({"params": params, "config": config_to_dict(config, assumed)})


def is_msgpack(path: Path) -> bool:
    """Return True for a file that starts like the result of :func:`msgpack_bytes`."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(8) in (b"\x82\xa6config", b"\x82\xa6params")


def read_msgpack(path: Path) -> SelectedLSTM:
    """Read a file of :func:`msgpack_bytes`."""
    serialization = import_optional("flax.serialization", "flax")
    msgpack = import_optional("msgpack", "flax")
    try:
        tree = serialization.msgpack_restore(path.read_bytes())
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise CheckpointError("flax-file", f"invalid Flax msgpack: {error}", path=path) from error
    return _validated(path, tree, tree.get("config") if isinstance(tree, dict) else None)


def write_orbax(
    path: Path, params: Arrays, config: LSTMConfig, assumed: Collection[str] = (), *, overwrite: bool
) -> None:
    """Write a directory with Orbax's ``StandardCheckpointer``.

    An existing directory is replaced by two renames: if the process dies between them, the old directory
    remains as ``.NAME.UNIQUE.old``. ``overwrite`` permits to replace a directory of ``jaxlstm.save`` to
    which other files were added.

    Raises:
      FileExistsError: ``path`` exists and is not a directory of ``jaxlstm.save``, or holds other files as
        well.
    """
    ocp = import_optional("orbax.checkpoint", "orbax")
    exists = os.path.lexists(path)
    if exists and (path.is_symlink() or saved_orbax_config(path) is None):
        raise FileExistsError(
            f"{path} exists and is not an Orbax directory of jaxlstm; choose another path or remove it"
        )
    unique = secrets.token_hex(8)
    new, old = (path.with_name(f".{path.name}.{unique}.{end}") for end in ("new", "old"))
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            metadata = {METADATA_KEY: config_to_dict(config, assumed)}
            checkpointer.save(new.absolute(), {"params": params}, custom_metadata=metadata)
        if exists:
            extra = _names_inside(path) - _names_inside(new)
            if extra and not overwrite:
                raise FileExistsError(
                    f"{path} also holds {', '.join(sorted(extra))}; choose another path, or pass "
                    "overwrite=True to delete the directory"
                )
            os.rename(path, old)
        os.rename(new, path)
    finally:
        # Orbax writes to a folder whose name starts with the given one, and renames it at the end.
        for folder in path.parent.glob(f"{new.name}*"):
            shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _names_inside(folder: Path) -> set[str]:
    """Return the relative path of each file and folder, with "*" for the random names of Orbax."""
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return {re.sub(r"\b[0-9a-f]{32}\b", "*", path) for path in paths}


def is_orbax(path: Path) -> bool:
    """Return True for a directory that Orbax wrote."""
    return path.is_dir() and (path / _ORBAX_METADATA).is_file()


def saved_orbax_config(path: Path) -> dict[str, Any] | None:
    """Return the config in a directory of :func:`write_orbax`, or None for any other path."""
    if not is_orbax(path):
        return None
    try:
        metadata = json.loads((path / _ORBAX_METADATA).read_text())
    except ValueError:
        return None
    custom = metadata.get("custom_metadata") if isinstance(metadata, dict) else None
    config = custom.get(METADATA_KEY) if isinstance(custom, dict) else None
    return config if isinstance(config, dict) else None


def read_orbax(path: Path) -> SelectedLSTM:
    """Read a directory of :func:`write_orbax`."""
    ocp = import_optional("orbax.checkpoint", "orbax")
    config = saved_orbax_config(path)
    if config is None or not (path / "_METADATA").is_file():
        return _validated(path, None, config)
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.restore(path.absolute(), restore_args=_as_numpy(checkpointer, path))
    return _validated(path, tree, config)


def _as_numpy(checkpointer: Any, path: Path) -> Any:
    """Return restore arguments for NumPy arrays, which need neither a device nor JAX's 64-bit mode."""
    import jax
    import orbax.checkpoint as ocp

    tree = checkpointer.metadata(path.absolute()).item_metadata.tree
    return jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)


def _validated(path: Path, tree: Any, config: Any) -> SelectedLSTM:
    """Return the LSTM in a restored tree, or raise if ``jaxlstm.save`` did not write it."""
    params = tree.get("params") if isinstance(tree, dict) else None
    if not isinstance(params, dict) or not isinstance(config, dict):
        raise CheckpointError(
            "flax-file",
            "not written by jaxlstm: 'params' or the config is missing; restore it with flax or orbax and "
            "pass the parameters under torch's names to jaxlstm.from_torch",
            path=path,
        )
    for name, array in params.items():
        if not isinstance(array, np.ndarray) or array.dtype not in DTYPE_CODES:
            raise CheckpointError("flax-file", f"{name} must be a floating-point array", path=path)
    try:
        lstm_config = config_from_dict(config)
        check_params(params, lstm_config)
        assumed = assumed_arguments(config)
    except (TypeError, ValueError) as error:
        raise CheckpointError("flax-file", f"not written by jaxlstm: {error}", path=path) from error
    return SelectedLSTM(params, lstm_config, assumed)
