"""A torch module or an exported program as the reference of a model.

A module is copied. The copy runs in evaluation mode on the CPU. Matrix products of float32 run in full
precision: TF32 and bfloat16 are switched off for the duration of a run, and the caller's settings and random
state are preserved. A run uses one thread, so that sums have the same order on every machine.
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np

from jaxlstm._shared.torch_methods import method_of, set_forward
from jaxlstm._shared.torch_tensors import numpy_to_tensor, tensor_to_numpy, with_attributes_of
from jaxlstm.check.cases.case import Array, Case, Results, named_outputs
from jaxlstm.check.cases.rounding import Rounding
from jaxlstm.check.exceptions import describe
from jaxlstm.check.reference import torch_precision

if TYPE_CHECKING:
    import torch


STATISTICS = ("running_mean", "running_var")
_OWN_DTYPE = "_dtype_of_the_original"
"""Attribute of a float64 copy of a module, kept by copies of it."""

REMEMBERED = 8
"""Results that are kept: whether the module takes a case is tried before the case is."""


class TorchModel:
    """A torch module that can run in several dtypes without a change to the caller's module."""

    name = "torch"
    chaotic = math.inf

    def __init__(self, module: Any) -> None:
        """Copy a module, the module of a bound method, an exported program or a TorchScript file."""
        import torch

        if isinstance(module, (str, os.PathLike)):
            module = load_script(module)
        module, function = method_of(module)
        exported = isinstance(module, torch.export.ExportedProgram)
        self.module_name = "the exported program" if exported else type(module).__name__
        if isinstance(module, torch.jit.ScriptModule):
            self.module_name = f"{module.original_name} (TorchScript, executed by torch)"
        module = _exported_module(module) if exported else module
        if not isinstance(module, torch.nn.Module):
            raise TypeError(
                f"theirs must be a torch.nn.Module or a torch.export.ExportedProgram, got {self.module_name}"
            )
        # A frozen ScriptModule has no attribute `training`.
        self.was_training = getattr(module, "training", False) and not exported
        self._copy = _deep_copy(module).cpu()
        _without_gradients(self._copy)
        set_forward(self._copy, function)
        if not exported:  # An exported module has no modes.
            self._copy.eval()
        dtypes = [p.dtype for p in self._copy.parameters() if p.is_floating_point()]
        self.dtype = np.dtype(tensor_to_numpy(torch.empty(0, dtype=dtypes[0] if dtypes else None)).dtype)
        self._in_float64 = with_attributes_of(self._copy, _deep_copy(self._copy).double())
        if self.dtype != np.float64:
            setattr(self._in_float64, _OWN_DTYPE, getattr(torch, self.dtype.name))
        self._results: dict[Any, Results] = {}

    def module(self, dtype: Any) -> torch.nn.Module:
        """Return the copy in float64, or the copy in the module's own dtype."""
        return self._in_float64 if np.dtype(dtype) == np.float64 else self._copy

    def params(self) -> dict[str, Array]:
        """Return the parameters in the module's own dtype by name. A tied parameter appears once."""
        return {name: tensor_to_numpy(p) for name, p in self._copy.named_parameters()}

    def statistics(self) -> dict[str, Array]:
        """Return the running statistics by name."""
        buffers = self._copy.named_buffers()
        return {n: tensor_to_numpy(a) for n, a in buffers if n.endswith(STATISTICS)}

    def moved(self, values: Mapping[str, Array]) -> TorchModel:
        """Return the module with other values of some parameters and statistics."""
        clone, self_modules = copy.copy(self), (self._copy, self._in_float64)
        clone._results = {}
        clone._copy, clone._in_float64 = map(_deep_copy, self_modules)
        for module in (clone._copy, clone._in_float64):
            for name, tensor in (*module.named_parameters(), *module.named_buffers()):
                if name in values:
                    tensor.data.copy_(numpy_to_tensor(values[name]))
        return clone

    def run(
        self, case: Case, dtype: Any = np.float64, *, gradients: bool = False, onednn: bool = True
    ) -> Results:
        """Run the module on a case in its own dtype or float64. Without oneDNN, sums have another order."""
        case = case.astype(dtype)
        key = (case.contents, np.dtype(dtype), gradients, onednn)
        if key not in self._results:
            with pinned(dtype, onednn=onednn):
                self._results[key] = run_module(self.module(dtype), case, gradients)
            for old in list(self._results)[:-REMEMBERED]:
                del self._results[old]
        return self._results[key]

    def refusal(self, case: Case) -> str:
        """Return the exception that the module raises for a case, or an empty string."""
        try:
            # torch's float32 LSTM does not always check the sizes of its input; its float64 LSTM does.
            for dtype in {self.dtype, np.dtype(np.float64)}:
                self.run(case, dtype)
        except Exception as error:
            return describe(error)
        return ""

    def right_runs(self, case: Case, dtype: Any, *, gradients: bool) -> list[Results]:
        """Return the results of a run without oneDNN, with XLA's functions where those are less precise."""
        from jaxlstm.check.reference.torch_double import OF_XLA, OtherFunctions

        with OtherFunctions(OF_XLA):
            return [self.run(case, dtype, gradients=gradients, onednn=False)]

    def perturbed(self, case: Case, rounding: Rounding, *, gradients: bool) -> Results:
        """Return the float64 results after a change of every number of the call.

        Functions that torch cuts where float32 does not show it are not cut.
        """
        from jaxlstm.check.reference.torch_double import SMOOTH, OtherFunctions

        case, module = rounding.of_case(case), _deep_copy(self._in_float64)
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.data.copy_(numpy_to_tensor(rounding.of_weight(tensor_to_numpy(tensor))))
        with OtherFunctions(SMOOTH), pinned(np.float64):
            return run_module(module, case, gradients)

    def run_attached(self, case: Case) -> Results:
        """Return the float64 results with gradients also where the module detaches or has them off."""
        import torch

        module = _deep_copy(self._in_float64)
        forward = module.forward

        def attached(*args: Any, **kwargs: Any) -> Any:
            with (
                mock.patch.object(torch.Tensor, "detach", lambda tensor: tensor),
                mock.patch.object(torch, "no_grad", contextlib.nullcontext),
            ):
                return forward(*args, **kwargs)

        module.forward = attached
        with pinned(np.float64):
            return run_module(module, case.astype(np.float64), True)

    def with_other_tables(
        self, case: Case, rng: np.random.Generator, *, weights: bool = False
    ) -> tuple[list[str], Results] | None:
        """Change every number of the tables by rounding; return their names and the float64 results.

        Tables are the floating-point buffers that are not statistics, such as encodings, and the tensors
        that the module makes of numbers in its code; with ``weights``, parameters and statistics too.
        """
        import torch

        size = float(np.finfo(self.dtype).eps) if self.dtype.kind == "f" else 0.0
        names: list[str] = []

        def changed(table: torch.Tensor, name: str = "a tensor in its code") -> torch.Tensor:
            names.append(name)
            signs = torch.from_numpy(rng.choice([-1.0, 1.0], tuple(table.shape)))
            return table.add_(size * table.abs().max() * signs) if table.numel() else table

        module = _deep_copy(self._in_float64)
        for name, table in (*module.named_buffers(), *module.named_parameters()):
            is_table = not name.endswith(STATISTICS) and not isinstance(table, torch.nn.Parameter)
            if table.is_floating_point() and (weights or is_table):
                changed(table, name)
        with pinned(np.float64, literal=changed):
            results = run_module(module, case.astype(np.float64), False)
        return (list(dict.fromkeys(names)), results) if names else None


def tensors_of(case: Case) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, torch.Tensor]]:
    """Return the arguments with their arrays as tensors, and the floating-point tensors by name."""
    from jaxlstm.check.reference.torch_double import to_tensor

    tensors = {name: to_tensor(a) for name, a in case.arrays.items()}
    args, kwargs = case.call(tensors)
    return args, kwargs, {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}


def arrays_of(returned: Any) -> dict[str, Array]:
    """Return the results of a module as NumPy arrays by name."""
    return _arrays(named_outputs(returned))


def _arrays(leaves: Mapping[str, Any]) -> dict[str, Array]:
    return {name: tensor_to_numpy(a) if hasattr(a, "detach") else np.asarray(a) for name, a in leaves.items()}


@contextlib.contextmanager
def pinned(
    dtype: Any,
    *,
    onednn: bool = True,
    literal: Callable[[Any], Any] = lambda tensor: tensor,
    is_layer: bool = False,
) -> Iterator[None]:
    """Compute in full precision on one thread, without the fused attention that zeroes padded rows.

    ``dtype`` is the default dtype of tensors that a module creates. In float64, everything is computed in
    float64; only numbers in the code of the module are rounded as they are outside of the context, and then
    changed by ``literal``. A layer of torch in this dtype, ``is_layer``, needs no such changes.
    """
    import torch

    from jaxlstm.check.reference.torch_double import (
        STABLE,
        DoublePrecision,
        OtherFunctions,
        layers_in_one_piece,
        plain_control_flow,
    )

    default, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_default_dtype(getattr(torch, np.dtype(dtype).name))
    fastpath, with_onednn = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    # The public setter raises in a process that has imported torch's own test helpers.
    torch._C._set_mkldnn_enabled(onednn and with_onednn)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch_precision.pinned())
            stack.enter_context(torch.random.fork_rng(devices=[]))
            if not is_layer:
                stack.enter_context(plain_control_flow())
                stack.enter_context(layers_in_one_piece())
                is_double = np.dtype(dtype) == np.float64
                in_double = DoublePrecision(lambda a: literal(a.to(default).double()))
                stack.enter_context(in_double if is_double else OtherFunctions(STABLE))
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(default)
        torch.backends.mha.set_fastpath_enabled(fastpath)
        torch._C._set_mkldnn_enabled(with_onednn)


def run_module(
    module: torch.nn.Module,
    case: Case,
    gradients: bool,
    named: Callable[[Any], Mapping[str, Any]] = named_outputs,
) -> Results:
    """Run a module on a case, whose cotangents have the names that ``named`` gives its results."""
    import torch

    from jaxlstm.check.reference.torch_double import to_tensor

    args, kwargs, sources = tensors_of(case)
    if not gradients:
        with torch.no_grad():
            return Results(_arrays(named(call_module(module, args, kwargs))))
    sources |= {name: p for name, p in module.named_parameters() if p.is_floating_point()}
    for tensor in sources.values():
        tensor.requires_grad_()
    try:
        with torch.enable_grad():
            returned = named(call_module(module, args, kwargs))
            outputs = {n: a for n, a in returned.items() if hasattr(a, "detach") and a.requires_grad}
            results = Results(_arrays(returned))
            if not outputs:
                return results
            cotangents = [to_tensor(case.cotangents[n].astype(results.outputs[n].dtype)) for n in outputs]
            derivatives = torch.autograd.grad(
                list(outputs.values()), list(sources.values()), grad_outputs=cotangents, allow_unused=True
            )
    finally:
        _without_gradients(module)
    by_name = zip(sources.items(), derivatives, strict=True)
    gradients_or_zeros = {name: torch.zeros_like(source) if g is None else g for (name, source), g in by_name}
    return Results(results.outputs, _arrays(gradients_or_zeros))


def load_script(path: str | os.PathLike[str], submodule: str = "") -> torch.nn.Module:
    """Return a module of a TorchScript file, whose code torch compiles and will execute."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.load(path, map_location="cpu")
    return dict(module.named_modules())[submodule]


def _without_gradients(module: torch.nn.Module) -> None:
    for parameter in module.parameters():  # A ScriptModule has no method for it.
        parameter.requires_grad_(False)


def call_module(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a module, whose float64 copy sees its own dtype."""
    from jaxlstm.check.reference.torch_double import dtypes_as_in

    own_dtype = vars(module).get(_OWN_DTYPE)
    with dtypes_as_in(own_dtype) if own_dtype else contextlib.nullcontext():
        return module(*args, **kwargs)


def _exported_module(program: torch.export.ExportedProgram) -> torch.nn.Module:
    try:
        module = program.module()
    except RuntimeError as error:
        # For example, torch's own attribute "meta" hides a submodule of that name.
        raise ValueError(
            f"torch cannot run this exported program: {error}. Pass the live module to verify_model instead, "
            "or rename the submodule that the error names and export the model again"
        ) from error
    _tie_parameters(module)
    return module


def _tie_parameters(module: torch.nn.Module) -> None:
    """Tie the parameters that share memory: a program's module has two parameters where the model had one."""
    first: dict[Any, Any] = {}
    for name, parameter in list(module.named_parameters(remove_duplicate=False)):
        place = parameter.data_ptr(), parameter.shape, parameter.stride()
        path, _, last = name.rpartition(".")
        if parameter.numel():
            setattr(module.get_submodule(path), last, first.setdefault(place, parameter))


def _deep_copy(module: torch.nn.Module) -> torch.nn.Module:
    import torch

    with warnings.catch_warnings(), torch.no_grad():  # The copy of a ScriptModule records its clones.
        # The copy of an exported module touches deprecated classes of torch.
        warnings.simplefilter("ignore", FutureWarning)
        return with_attributes_of(module, copy.deepcopy(module))
