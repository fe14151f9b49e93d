"""``torch.nn.LSTM`` under ``torch.compile``.

With the default settings torch does not trace an LSTM (``torch._dynamo.config.allow_rnn`` is off), and the
module runs as it does in eager mode.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException

from benchmarks.implementation import Implementation, Unsupported
from benchmarks.peers import torch as eager
from benchmarks.problems import Problem
from benchmarks.settings import Settings

carrying = partial(eager.carrying, wrap=torch.compile)


def implementation(problem: Problem, settings: Settings) -> Implementation:
    """Compile anew: torch limits the number of recompilations."""
    torch.compiler.reset()
    infer, train, _ = eager.implementation(problem, settings, torch.compile)
    assert train is not None
    return Implementation(partial(_or_unsupported, infer), partial(_or_unsupported, train))


def _or_unsupported(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except TorchDynamoException as error:  # without a C++ compiler, for example
        raise Unsupported(f"torch.compile: {str(error).splitlines()[0]}") from error
