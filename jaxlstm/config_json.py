"""LSTM configs as JSON, for saved files and the command line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from jaxlstm.config import LSTMCellConfig, LSTMConfig

METADATA_KEY = "jaxlstm"
_TYPES = {"LSTM": LSTMConfig, "LSTMCell": LSTMCellConfig}


def config_to_dict(config: LSTMConfig) -> dict[str, Any]:
    """Return the constructor arguments by name, and ``type``: "LSTM" or "LSTMCell"."""
    kind = "LSTMCell" if isinstance(config, LSTMCellConfig) else "LSTM"
    fields = [field.name for field in dataclasses.fields(config) if field.init]
    return {"type": kind, **{name: getattr(config, name) for name in fields}}


def config_from_dict(data: Mapping[str, Any]) -> LSTMConfig:
    """Return the config of a dict from :func:`config_to_dict`; raise ValueError if it is not one."""
    kwargs = dict(data)
    kind = kwargs.pop("type", None)
    if kind not in _TYPES:
        raise ValueError(f"config type must be one of {sorted(_TYPES)}, got {kind!r}")
    try:
        return _TYPES[kind](**kwargs)
    except TypeError as error:
        raise ValueError(f"config does not fit {kind}: {error}") from error


def saved_metadata(prefix: str, config: LSTMConfig) -> str:
    """Return prefix and config as one line of JSON, stored under :data:`METADATA_KEY`."""
    return json.dumps({"prefix": prefix, "config": config_to_dict(config)})


def saved_config(text: str) -> tuple[str, LSTMConfig]:
    """Parse the result of :func:`saved_metadata`; raise ValueError if it is something else."""
    try:
        data = json.loads(text)
        return str(data["prefix"]), config_from_dict(data["config"])
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"metadata {METADATA_KEY!r} is not from jaxlstm: {text[:80]!r}") from error
