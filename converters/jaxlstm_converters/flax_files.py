"""Flax's own file formats: msgpack (``flax.serialization``) and Orbax directories.

Both hold ``{"params": {torch's name: array}}``, what Linen's ``apply`` takes, and the config beside it.
"""

from __future__ import annotations

import importlib
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from jaxlstm.config import LSTMConfig
from jaxlstm.params import check_params
from jaxlstm_converters.checkpoint import CheckpointError
from jaxlstm_converters.config_json import METADATA_KEY, config_from_dict, config_to_dict
from jaxlstm._shared.safetensors import DTYPE_CODES

Arrays = dict[str, np.ndarray]
_ORBAX_METADATA = "_CHECKPOINT_METADATA"


def msgpack_bytes(params: Arrays, config: LSTMConfig) -> bytes:
    """``{"params": ..., "config": ...}`` as Flax msgpack, for ``flax.serialization.msgpack_restore``."""
    serialization = require("flax.serialization", "flax")
    return serialization.msgpack_serialize({"params": params, "config": config_to_dict(config)})


def is_msgpack(path: Path) -> bool:
    """Whether the file starts as one of :func:`msgpack_bytes` does: a map of "config" and "params"."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(8) in (b"\x82\xa6config", b"\x82\xa6params")


def read_msgpack(path: Path) -> tuple[Arrays, LSTMConfig]:
    """The parameters and config of a file of :func:`msgpack_bytes`."""
    serialization = require("flax.serialization", "flax")
    msgpack = require("msgpack", "flax")
    try:
        tree = serialization.msgpack_restore(path.read_bytes())
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise CheckpointError("flax-file", f"not Flax msgpack: {error}", path=path) from error
    return _checked(path, tree, tree.get("config") if isinstance(tree, dict) else None)


def write_orbax(path: Path, params: Arrays, config: LSTMConfig) -> None:
    """A directory of Orbax's ``StandardCheckpointer``, put in place of an older one by two renames.

    Only a directory that Orbax wrote is replaced: anything else may be somebody's work.
    """
    ocp = require("orbax.checkpoint", "orbax")
    if path.exists() and not is_orbax(path):
        raise FileExistsError(
            f"{path} is there and is no Orbax directory; choose another path, or remove it yourself"
        )
    unique = secrets.token_hex(8)
    new, old = (path.with_name(f".{path.name}.{unique}.{end}") for end in ("new", "old"))
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            metadata = {METADATA_KEY: config_to_dict(config)}
            checkpointer.save(new.absolute(), {"params": params}, custom_metadata=metadata)
        if path.exists():
            os.rename(path, old)
        os.rename(new, path)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def is_orbax(path: Path) -> bool:
    """Whether the path is a directory that Orbax wrote."""
    return path.is_dir() and (path / _ORBAX_METADATA).is_file()


def read_orbax(path: Path) -> tuple[Arrays, LSTMConfig]:
    """The parameters and config of a directory of :func:`write_orbax`."""
    ocp = require("orbax.checkpoint", "orbax")
    try:
        metadata = json.loads((path / _ORBAX_METADATA).read_text())
    except ValueError as error:
        raise CheckpointError(
            "flax-file", f"its metadata is no JSON: {error}", path=path
        ) from error
    custom = metadata.get("custom_metadata") if isinstance(metadata, dict) else None
    saved = custom.get(METADATA_KEY) if isinstance(custom, dict) else None
    if saved is None or not (path / "_METADATA").is_file():
        return _checked(path, None, saved)
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.restore(path.absolute(), restore_args=_as_numpy(checkpointer, path))
    return _checked(path, tree, saved)


def _as_numpy(checkpointer: Any, path: Path) -> Any:
    """Restore arguments that give NumPy arrays, so that no device and no 64-bit mode is needed."""
    import jax
    import orbax.checkpoint as ocp

    tree = checkpointer.metadata(path.absolute()).item_metadata.tree
    return jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)


def _checked(path: Path, tree: Any, config: Any) -> tuple[Arrays, LSTMConfig]:
    """The parameters and config of a restored tree, if it is one that we wrote."""
    params = tree.get("params") if isinstance(tree, dict) else None
    if not isinstance(params, dict) or not isinstance(config, dict):
        raise CheckpointError(
            "flax-file",
            "not of jaxlstm: it must hold 'params' and a config; restore it with flax or orbax and "
            "pass the torch-named parameters to jaxlstm.from_torch",
            path=path,
        )
    for name, array in params.items():
        if not isinstance(array, np.ndarray) or array.dtype not in DTYPE_CODES:
            raise CheckpointError("flax-file", f"{name} is no float array", path=path)
    try:
        found = config_from_dict(config)
        check_params(params, found)
    except (TypeError, ValueError) as error:
        raise CheckpointError("flax-file", f"not of jaxlstm: {error}", path=path) from error
    return params, found


def require(module: str, extra: str) -> Any:
    """Import an optional package, or say which extra brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{module} is not installed; pip install 'jaxlstm[{extra}]' brings it"
        ) from error
