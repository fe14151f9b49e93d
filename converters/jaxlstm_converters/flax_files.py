"""Flax's own file formats: msgpack (``flax.serialization``) and Orbax directories.

Both hold ``{"params": {torch's name: array}}``, what Linen's ``apply`` takes, and the config beside it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxlstm.config import LSTMConfig
from jaxlstm_converters.checkpoint import CheckpointError
from jaxlstm_converters.config_json import METADATA_KEY, config_from_dict, config_to_dict

Arrays = dict[str, np.ndarray]
_ORBAX_METADATA = "_CHECKPOINT_METADATA"


def msgpack_bytes(params: Arrays, config: LSTMConfig) -> bytes:
    """``{"params": ..., "config": ...}`` as Flax msgpack; ``flax.serialization.msgpack_restore`` reads it."""
    from flax import serialization

    return serialization.msgpack_serialize({"params": params, "config": config_to_dict(config)})


def is_msgpack(path: Path) -> bool:
    """Whether the file starts as one of :func:`msgpack_bytes` does: a map of two, "config" and "params"."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(8) in (b"\x82\xa6config", b"\x82\xa6params")


def read_msgpack(path: Path) -> tuple[Arrays, LSTMConfig]:
    """The parameters and config of a file of :func:`msgpack_bytes`."""
    import msgpack
    from flax import serialization

    try:
        tree = serialization.msgpack_restore(path.read_bytes())
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise CheckpointError("flax-file", f"not Flax msgpack: {error}", path=path) from error
    if not isinstance(tree, dict) or not {"params", "config"} <= tree.keys():
        raise CheckpointError(
            "flax-file",
            "not of jaxlstm: it must hold 'params' and 'config'; restore it with "
            "flax.serialization and pass the torch-named parameters to jaxlstm.from_torch",
            path=path,
        )
    return tree["params"], config_from_dict(tree["config"])


def write_orbax(path: Path, params: Arrays, config: LSTMConfig) -> None:
    """A directory of Orbax's ``StandardCheckpointer``, which writes it under another name and renames."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(
            path.absolute(),
            {"params": params},
            custom_metadata={METADATA_KEY: config_to_dict(config)},
            force=True,
        )


def is_orbax(path: Path) -> bool:
    """Whether the path is a directory that Orbax wrote."""
    return path.is_dir() and (path / _ORBAX_METADATA).is_file()


def read_orbax(path: Path) -> tuple[Arrays, LSTMConfig]:
    """The parameters and config of a directory of :func:`write_orbax`."""
    import orbax.checkpoint as ocp

    metadata: dict[str, Any] = json.loads((path / _ORBAX_METADATA).read_text())
    saved = (metadata.get("custom_metadata") or {}).get(METADATA_KEY)
    if saved is None:
        raise CheckpointError(
            "flax-file",
            "not of jaxlstm: its metadata has no config; restore it with orbax and pass the "
            "torch-named parameters to jaxlstm.from_torch",
            path=path,
        )
    with ocp.PyTreeCheckpointer() as checkpointer:
        params = checkpointer.restore(path.absolute(), restore_args=_as_numpy(checkpointer, path))[
            "params"
        ]
    return params, config_from_dict(saved)


def _as_numpy(checkpointer: Any, path: Path) -> Any:
    """Restore arguments that give NumPy arrays, so that no device and no 64-bit mode is needed."""
    import jax
    import orbax.checkpoint as ocp

    tree = checkpointer.metadata(path.absolute()).item_metadata.tree
    return jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
