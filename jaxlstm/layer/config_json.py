"""LSTM configs as JSON, for saved files and the command line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from jaxlstm.layer.config import LSTMCellConfig, LSTMConfig

METADATA_KEY = "jaxlstm"
ASSUMABLE = ("batch_first", "dropout")
"""The arguments of an LSTM that follow from no tensor."""
_TYPES = {"LSTM": LSTMConfig, "LSTMCell": LSTMCellConfig}


class SavedConfig(NamedTuple):
    """The prefix and config in the metadata of a file, and the names of the arguments that were assumed."""

    prefix: str
    config: LSTMConfig
    assumed: tuple[str, ...]


def config_to_dict(config: LSTMConfig, assumed: Collection[str] = ()) -> dict[str, Any]:
    """Return the constructor arguments by name, and ``type``: "LSTM" or "LSTMCell".

    ``assumed`` names the arguments that the source of the LSTM did not record. They are listed under
    "assumed", unless there are none.
    """
    kind = "LSTMCell" if isinstance(config, LSTMCellConfig) else "LSTM"
    fields = [field.name for field in dataclasses.fields(config) if field.init]
    data = {"type": kind, **{name: getattr(config, name) for name in fields}}
    return {**data, "assumed": list(assumed)} if assumed else data


def config_from_dict(data: Mapping[str, Any]) -> LSTMConfig:
    """Return the config of a dict from :func:`config_to_dict`; raise ValueError if it is not one."""
    kwargs = dict(data)
    kwargs.pop("assumed", None)
    kind = kwargs.pop("type", None)
    if kind not in _TYPES:
        raise ValueError(f"config type must be one of {sorted(_TYPES)}, got {kind!r}")
    try:
        return _TYPES[kind](**kwargs)
    except TypeError as error:
        raise ValueError(f"config does not fit {kind}: {error}") from error


def assumed_arguments(data: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names under "assumed" in a dict from :func:`config_to_dict`."""
    assumed = data.get("assumed", ())
    if not isinstance(assumed, (list, tuple)) or not set(assumed) <= set(ASSUMABLE):
        raise ValueError(f"assumed must list some of {ASSUMABLE}, got {assumed!r}")
    return tuple(assumed)


def saved_metadata(prefix: str, config: LSTMConfig, assumed: Collection[str] = ()) -> str:
    """Return prefix and config as one line of JSON, stored under :data:`METADATA_KEY`."""
    return json.dumps({"prefix": prefix, "config": config_to_dict(config, assumed)})


def saved_config(text: str) -> SavedConfig:
    """Parse the result of :func:`saved_metadata`; raise ValueError if it is something else."""
    try:
        data = json.loads(text)
        config = data["config"]
        return SavedConfig(str(data["prefix"]), config_from_dict(config), assumed_arguments(config))
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"metadata {METADATA_KEY!r} is not from jaxlstm: {text[:80]!r}") from error
