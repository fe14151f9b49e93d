"""Inference: compiled runners, streams, batched maps, exported artifacts and sharding.

Public names are imported on first use. This module is a facade, as ``jaxlstm`` is: BatchPredictor reads
files, so it belongs to the converters. See docs/inference.md.
"""

from typing import TYPE_CHECKING

from jaxlstm._shared.imports import lazy_names

if TYPE_CHECKING:
    from jaxlstm.inference.artifact import Exported as Exported
    from jaxlstm.inference.artifact import export as export
    from jaxlstm.inference.artifact import load_exported as load_exported
    from jaxlstm.inference.engine import Stats as Stats
    from jaxlstm.inference.program_runner import ProgramRunner as ProgramRunner
    from jaxlstm.inference.program_stream import ProgramStream as ProgramStream
    from jaxlstm.inference.runner import Runner as Runner
    from jaxlstm.inference.runner import compile as compile
    from jaxlstm.inference.sharding import Sharded as Sharded
    from jaxlstm.inference.sharding import shard as shard
    from jaxlstm.inference.stream import Stream as Stream
    from jaxlstm_converters._batch_predictor import BatchPredictor as BatchPredictor

__all__, __getattr__, __dir__ = lazy_names(__name__)  # pyright: ignore[reportUnsupportedDunderAll]
