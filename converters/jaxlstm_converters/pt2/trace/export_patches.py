"""Changes of torch and of a module that last for an export."""

import contextlib
import dataclasses
import functools
import inspect
import io
import logging
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch._export.passes import replace_autocast_with_hop_pass as autocast_pass
from torch._export.passes import replace_set_grad_with_hop_pass as set_grad_pass
from torch._subclasses.fake_tensor import FakeTensorMode, is_fake
from torch.export.graph_signature import InputKind
from torch.fx import _symbolic_trace
from torch.fx.experimental import proxy_tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.nn.modules._functions import BackwardHookFunction
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.hooks import RemovableHandle

from jaxlstm._shared.own_thread import ByThread, replaced
from jaxlstm_converters.pt2.trace.decompositions import decomposed
from jaxlstm_converters.pt2.trace.model_lines import is_of_model, line_of_model
from jaxlstm_converters.pt2.trace.shared_arrays import ReturnedArray


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings and output of this thread that come from torch, which a user cannot act on."""
    # Python takes the text of a filter for a regular expression. This one matches all texts.
    text = SimpleNamespace(match=ByThread(lambda message: True, lambda message: False))
    ignored: Any = ("ignore", text, Warning, None, 0)
    warnings.filters.insert(0, ignored)  # type: ignore[attr-defined]
    logs = replaced(logging.Logger, "handle", lambda self, record: None)
    try:
        with logs, replaced(sys, "stderr", io.StringIO()):
            yield
    finally:
        text.match.end()
        with contextlib.suppress(ValueError):  # Another thread may have restored its filters.
            warnings.filters.remove(ignored)  # type: ignore[attr-defined]


@contextlib.contextmanager
def own_gradients(module: torch.nn.Module) -> Iterator[set[str]]:
    """Yield sentences on the functions of the user that would change gradients: an export drops them."""
    found: set[str] = set()
    for name, part in module.named_modules():
        if part._backward_hooks or part._backward_pre_hooks:
            found.add(f"the backward hook of {name or 'the module'} is not run")
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None):
            found.add(f"the hook of {name} is not run")
    run: Any = torch.autograd.Function.apply
    function_of_node: Any = torch._C.TensorBase.grad_fn
    saved_tensors_hooks: Any = torch.autograd.graph.saved_tensors_hooks
    enter, register = saved_tensors_hooks.__enter__, torch.Tensor.register_hook

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if cls is BackwardHookFunction:
            found.add("the backward hook of a module is not run")
        elif not cls.__module__.startswith("torch."):
            found.add(f"gradients through {cls.__name__} come from its forward; its backward is not used")
        return run.__func__(cls, *args, **kwargs)

    def register_hook(tensor: torch.Tensor, hook: Any) -> Any:
        if not is_of_model(sys._getframe(1).f_code.co_filename):
            return register(tensor, hook)
        found.add(f"the hook at {line_of_model()} is not run")
        return RemovableHandle(OrderedDict())

    def grad_fn(tensor: torch.Tensor) -> Any:
        if is_of_model(sys._getframe(2).f_code.co_filename):  # 1 is the stand-in.
            found.add(f"a hook of the node at {line_of_model()} is not run")
        return function_of_node.__get__(tensor)

    def save(hooks: Any) -> None:
        if not (getattr(hooks.pack_hook, "__module__", None) or "").startswith("torch."):
            found.add(f"the hooks of saved tensors at {line_of_model()} are not run")
        enter(hooks)

    with (
        replaced(torch.autograd.Function, "apply", classmethod(apply)),
        replaced(torch.Tensor, "register_hook", register_hook),
        replaced(torch.Tensor, "register_post_accumulate_grad_hook", register_hook),
        replaced(torch.Tensor, "grad_fn", property(grad_fn)),
        replaced(saved_tensors_hooks, "__enter__", save),
    ):
        yield found


@contextlib.contextmanager
def kept_regions() -> Iterator[None]:
    """Let exports keep all regions, also where the caller is in one.

    torch drops a region unless the node that starts it is the first of its part of the graph. But a part
    starts with the functions of ``torch.cond``, or with ``autocast`` if ``no_grad`` is inside of that. And
    ``inference_mode`` has no node.
    """

    def first_of(is_start: Callable[[torch.fx.Node], Any]) -> Any:
        return lambda nodes, _: next(filter(is_start, nodes), None)

    no_grad = replaced(set_grad_pass, "nodes_first", first_of(set_grad_pass._is_set_grad_enabled_node))
    autocast = replaced(
        autocast_pass, "nodes_first", first_of(lambda node: node.op not in ("placeholder", "get_attr"))
    )
    functions = replaced(torch.fx.GraphModule, "delete_all_unused_submodules", _delete_unused)
    inference = replaced(torch._C, "_InferenceMode", _inference_mode)
    # torch itself replaces methods of all modules, and would trace the modules of other threads.
    methods = replaced(_symbolic_trace._PatchedFnSetAttr, "patch", _set_by_thread)
    arrays = replaced(torch, "from_numpy", torch.as_tensor)  # No mode sees from_numpy.
    # A second description of each result, with its memory format, which no file holds.
    formats = replaced(proxy_tensor, "_extract_tensor_metadata", lambda tensor: None)
    results = replaced(FakeTensorMode, "_make_cache_entry", _entry_of_second)
    replacements = (no_grad, autocast, functions, inference, methods, arrays, formats, results, decomposed())
    with torch.inference_mode(False), torch.enable_grad(), contextlib.ExitStack() as stack:
        for replacement in replacements:
            stack.enter_context(replacement)
        yield


_ENTRY: Any = FakeTensorMode._make_cache_entry


def _entry_of_second(mode: Any, state: Any, key: Any, *call: Any) -> Any:
    """Return torch's entry for the result of a call that occurs again, and None for the first one.

    To make an entry takes as long as to compute a result, and most calls of a model occur once.
    """
    cache = state.shape_env.fake_tensor_cache if state.cache_on_shape_env() else mode.cache
    return _ENTRY(mode, state, key, *call) if key in cache else None


def _set_by_thread(patch: Any) -> None:
    setattr(patch.frame_dict, patch.fn_name, ByThread(patch.new_fn, patch.orig_fn))


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


@contextlib.contextmanager
def free_time() -> Iterator[None]:
    """Let exports inside the block leave the length of the sequences of LSTMs, GRUs and RNNs free.

    torch traces these layers as loops over a fixed number of steps, and fixes the length in ``max_pool1d``,
    although the exported graph holds each as one node. Only the shapes of its results are needed for that.
    For ``ctc_loss`` it computes a size from the lengths of the targets.
    """
    key: Any = torch._C.DispatchKey.CompositeImplicitAutograd
    aten = torch.ops.aten
    layers = (aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input)
    kernels = {op: functools.partial(_shapes, op, op.py_kernels[key]) for op in layers}
    kernels |= {aten.max_pool1d.default: _max_pool1d}
    kernels |= {op: functools.partial(_loss, op) for op in (aten.ctc_loss.Tensor, aten.ctc_loss.IntList)}
    with contextlib.ExitStack() as stack:
        for op, kernel in kernels.items():
            others = op.py_kernels.get(key, functools.partial(op._op_dk, key))
            by_thread = ByThread(kernel, others)
            stack.callback(by_thread.end)
            stack.callback(op._dispatch_cache.clear)
            stack.enter_context(mock.patch.dict(op.py_kernels, {key: by_thread}))
            op._dispatch_cache.clear()  # It would undo the change.
        yield


def _max_pool1d(
    input: Any,
    kernel_size: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Any:
    """Return the tensor pooled by ``max_pool2d``."""

    def in_2d(value: Any, of_height: int) -> list[int]:
        return [of_height, value if isinstance(value, int) else value[0]]

    sizes = (in_2d(kernel_size, 1), in_2d(stride or kernel_size, 1), in_2d(padding, 0), in_2d(dilation, 1))
    return torch.max_pool2d(input.unsqueeze(-2), *sizes, bool(ceil_mode)).squeeze(-2)


def _loss(ctc_loss: Any, log_probs: Any, targets: Any, *settings: Any) -> Any:
    """Return a tensor with the shape of a CTC loss; ``settings[3]`` is its reduction, the mean by default."""
    if not is_fake(log_probs):
        return ctc_loss._op_dk(torch._C.DispatchKey.CompositeImplicitAutograd, log_probs, targets, *settings)
    is_each = settings[3:4] == (0,)
    return log_probs.sum(0).sum(-1) if is_each else log_probs.sum()


def _shapes(
    layer: Any, kernel: Callable[..., Any], input: Any, hx: Any, params: Any, has_biases: bool, *settings: Any
) -> tuple[Any, ...]:
    """Return tensors with the shapes of a layer's results, which depend on its input, state and weights."""
    if not is_fake(input):
        return kernel(input, hx, params, has_biases, *settings)
    _, _, _, bidirectional, batch_first = settings
    states = [hx] if isinstance(hx, torch.Tensor) else hx
    one = torch.nn.functional.linear(input, params[0])[..., : states[0].shape[2]]
    outputs = torch.cat([one, one] if bidirectional else [one], -1)
    # One number per sequence, so that the batch must equal the batch of the states.
    dependent = outputs.sum((1 if batch_first else 0, 2))[:, None]
    results: tuple[Any, ...] = (outputs, *(state + dependent for state in states))
    # A draft decides conditions by the values of the example.
    known = _pytree.tree_map_only(
        torch.Tensor, lambda tensor: getattr(tensor, "real_tensor", None), (input, hx, params)
    )
    if all(isinstance(tensor, torch.Tensor) for tensor in _pytree.tree_leaves(known)):
        with _disable_current_modes():
            # torch compares the strides of both.
            values = [value.contiguous() for value in layer(*known, has_biases, *settings)]
        for result, value in zip(results, values, strict=True):
            result.real_tensor = value
    return results


def with_parameters(
    program: torch.export.ExportedProgram, module: torch.nn.Module
) -> torch.export.ExportedProgram:
    """Replace constants of a program by the parameters and buffers that they are.

    torch takes parameters for constants if a module reads them from its own list or dict. A detached tensor,
    which has the memory of its parameter, stays a constant.
    """
    names = {id(x): name for name, x in (*module.named_buffers(), *module.named_parameters())}
    held: dict[Any, set[int]] = {}  # Memory of a tensor in a list or dict -> identities
    for name, value in (item for part in module.modules() for item in vars(part).items()):
        for tensor in filter(torch.is_tensor, _pytree.tree_leaves(value)):
            if name not in ("_parameters", "_buffers"):
                held.setdefault(_memory(tensor), set()).add(id(tensor))
    owners = {memory: names.get(min(ids)) for memory, ids in held.items() if len(ids) == 1}
    own = program.state_dict.keys() - program.graph_signature.buffers_to_mutate.values()
    specs = list(program.graph_signature.input_specs)
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    inputs: Any = {spec.target: nodes[spec.arg.name] for spec in specs if spec.target in own}
    for spec in specs:
        constant = program.constants.get(str(spec.target))
        if spec.kind is not InputKind.CONSTANT_TENSOR or not torch.is_tensor(constant):
            continue
        node, owner = nodes[spec.arg.name], inputs.get(owners.get(_memory(constant)))
        if owner is not None and not any(user.op == "output" for user in node.users):
            node.replace_all_uses_with(owner)
            program.graph.erase_node(node)
            program.graph_signature.input_specs.remove(spec)
            program.constants.pop(str(spec.target))
    program.graph_module.recompile()
    return program


def _memory(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


@contextlib.contextmanager
def keywords_by_name(module: torch.nn.Module, kwargs: Mapping[str, Any]) -> Iterator[None]:
    """Let the signature of ``forward(x, **kwargs)`` name the keywords of the example, which torch needs."""
    signature = inspect.signature(module.forward)
    parameters = list(signature.parameters.values())
    if not parameters or parameters[-1].kind is not inspect.Parameter.VAR_KEYWORD:
        yield
        return
    extra = [name for name in kwargs if name not in signature.parameters]
    named = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in extra]
    original = module.forward

    @functools.wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    forward.__signature__ = signature.replace(parameters=[*parameters[:-1], *named])  # type: ignore[attr-defined]
    with mock.patch.object(module, "forward", forward):
        yield


@contextlib.contextmanager
def plain_results(module: torch.nn.Module) -> Iterator[None]:
    """Convert dataclasses and mappings among the results of a module to dicts, torch's types to tuples.

    A NumPy array of a tensor becomes the tensor.
    """
    with results_hook(module, _plain):
        yield


@contextlib.contextmanager
def results_hook(module: torch.nn.Module, convert: Callable[[Any], Any]) -> Iterator[None]:
    """Convert the results of a module in this thread."""
    hook = ByThread(lambda module, args, results: convert(results), lambda *args: None)
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _plain(value: Any) -> Any:
    if isinstance(value, ReturnedArray):
        return value.tensor
    if isinstance(value, PackedSequence):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {part.name: _plain(getattr(value, part.name)) for part in dataclasses.fields(value)}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, tuple) and (type(value) is tuple or hasattr(value, "n_sequence_fields")):
        return tuple(_plain(item) for item in value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        kind = type(value)  # torch writes only types that are registered
        if kind not in _pytree.SUPPORTED_SERIALIZED_TYPES:
            name = f"{kind.__module__}.{kind.__qualname__}"
            _pytree._register_namedtuple(kind, serialized_type_name=name)
        return kind(*map(_plain, value))
    return value
