"""`kept_regions`: exports that keep the regions of ``no_grad``, ``inference_mode`` and ``autocast``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch._export.passes import replace_autocast_with_hop_pass as autocast_pass
from torch._export.passes import replace_set_grad_with_hop_pass as set_grad_pass
from torch.fx.experimental.proxy_tensor import get_proxy_mode


@contextlib.contextmanager
def kept_regions() -> Iterator[None]:
    """Let exports keep all regions, also where the caller is in one.

    torch drops a region unless the node that starts it is the first of its part of the graph. But a part
    starts with the functions of ``torch.cond``, or with ``autocast`` if ``no_grad`` is inside of that. And
    ``inference_mode`` has no node.
    """

    def first_of(is_start: Callable[[torch.fx.Node], Any]) -> Any:
        return lambda nodes, _: next(filter(is_start, nodes), None)

    no_grad = mock.patch.object(
        set_grad_pass, "nodes_first", first_of(set_grad_pass._is_set_grad_enabled_node)
    )
    autocast = mock.patch.object(
        autocast_pass, "nodes_first", first_of(lambda node: node.op not in ("placeholder", "get_attr"))
    )
    functions = mock.patch.object(torch.fx.GraphModule, "delete_all_unused_submodules", _delete_unused)
    inference = mock.patch.object(torch._C, "_InferenceMode", _inference_mode)
    with torch.inference_mode(False), torch.enable_grad(), no_grad, autocast, functions, inference:
        yield


def _delete_unused(graph: torch.fx.GraphModule) -> None:
    """Delete submodules that no node uses. torch would also delete the functions in the others."""
    used = {node.target for node in graph.graph.nodes}
    for name in [name for name, _ in graph.named_children() if name not in used]:
        delattr(graph, name)


_INFERENCE_MODE = torch._C._InferenceMode


def _inference_mode(mode: bool) -> Any:
    """Return torch's mode, and the modes that a trace keeps if there is one."""
    if get_proxy_mode() is None:
        return _INFERENCE_MODE(mode)
    return torch.no_grad() if mode else contextlib.nullcontext()
