"""A config as JSON, the form in which saved files and the command line carry it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from jaxlstm.config import LSTMCellConfig, LSTMConfig

METADATA_KEY = "jaxlstm"
_TYPES = {"LSTM": LSTMConfig, "LSTMCell": LSTMCellConfig}


def config_to_dict(config: LSTMConfig) -> dict[str, Any]:
    """Constructor arguments by name, and ``type``: "LSTM" or "LSTMCell"."""
    kind = "LSTMCell" if isinstance(config, LSTMCellConfig) else "LSTM"
    fields = [field.name for field in dataclasses.fields(config) if field.init]
    return {"type": kind, **{name: getattr(config, name) for name in fields}}


def config_from_dict(data: Mapping[str, Any]) -> LSTMConfig:
    """The inverse of :func:`config_to_dict`; ValueError if it does not describe an LSTM."""
    arguments = dict(data)
    kind = arguments.pop("type", None)
    if kind not in _TYPES:
        raise ValueError(f"config type must be one of {sorted(_TYPES)}, got {kind!r}")
    try:
        return _TYPES[kind](**arguments)
    except TypeError as error:
        raise ValueError(f"config does not fit {kind}: {error}") from error


def saved_metadata(prefix: str, config: LSTMConfig) -> str:
    """What a saved file says of its LSTM under :data:`METADATA_KEY`: one line of JSON."""
    return json.dumps({"prefix": prefix, "config": config_to_dict(config)})


def saved_config(text: str) -> tuple[str, LSTMConfig]:
    """The inverse of :func:`saved_metadata`: prefix and config."""
    try:
        data = json.loads(text)
        return str(data["prefix"]), config_from_dict(data["config"])
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"metadata {METADATA_KEY!r} is not of jaxlstm: {text[:80]!r}") from error
