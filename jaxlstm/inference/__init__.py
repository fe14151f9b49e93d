"""Inference: compiled runners, streams, batched maps, exported artifacts and sharding.

See docs/inference.md.
"""

from __future__ import annotations

from jaxlstm.inference.engine import Stats as Stats
from jaxlstm.inference.lstm_artifact import Exported as Exported
from jaxlstm.inference.lstm_artifact import export as export
from jaxlstm.inference.lstm_artifact import load_exported as load_exported
from jaxlstm.inference.runner import Runner as Runner
from jaxlstm.inference.runner import compile as compile
from jaxlstm.inference.sharding import Sharded as Sharded
from jaxlstm.inference.sharding import shard as shard
from jaxlstm.inference.slots import Slots as Slots
from jaxlstm.inference.stream import Stream as Stream

__all__ = [
    "Exported",
    "Runner",
    "Sharded",
    "Slots",
    "Stats",
    "Stream",
    "compile",
    "export",
    "load_exported",
    "shard",
]
