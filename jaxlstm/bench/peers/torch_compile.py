"""``torch.nn.LSTM`` under ``torch.compile`` with its defaults.

Those do not trace an LSTM (``torch._dynamo.config.allow_rnn`` is off), so that the module runs as it does
without.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException

from jaxlstm.bench.peers.torch import side as torch_side
from jaxlstm.bench.setting import Setting
from jaxlstm.bench.side import Side, Unsupported
from jaxlstm.bench.sizes import Problem


def side(problem: Problem, setting: Setting) -> Side:
    """The compiled side; what was compiled for other problems is forgotten, as there is a limit to it."""
    torch.compiler.reset()
    infer, train = torch_side(problem, setting, torch.compile)
    assert train is not None
    return Side(partial(_or_unsupported, infer), partial(_or_unsupported, train))


def _or_unsupported(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except TorchDynamoException as error:  # without a C++ compiler, say
        raise Unsupported(f"torch.compile: {str(error).splitlines()[0]}") from error
