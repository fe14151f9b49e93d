"""`OtherSizes`: exports of a module for calls whose sizes its program does not take."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import jax
import torch
from torch.utils import _pytree

from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.inputs import require_tensors
from jaxlstm.programs.program import Program
from jaxlstm_converters.pt2.export_steps import LOCK, ExportCall, ExportStep, export_without_free_axes


class OtherSizes:
    """The programs of a module at other sizes than its first, each exported for the first call of its sizes.

    Examples of zeros are enough: an export that depends on values fails.
    """

    def __init__(self, call: ExportCall, read: Callable[[ExportStep], Program]) -> None:
        """Copy the module, except the memory of its parameters; ``read`` returns the program of an export."""
        shared = {
            id(parameter): torch.nn.Parameter(parameter.detach(), parameter.requires_grad)
            for parameter in call.module.parameters()
            if type(parameter) is torch.nn.Parameter
        }
        self._call = call._replace(module=copy.deepcopy(call.module, shared))
        self._read = read
        self._programs: list[Program] = []

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Leave the module out of a pickled program."""
        return type(None), ()

    def __call__(
        self, first: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any], error: ProgramError
    ) -> Program:
        """Return a program that takes the arguments, for which the first raised an error.

        Raises:
            ProgramError: the error, if it is about values, or if the module or torch refuses the sizes.
        """
        program = next((known for known in (first, *self._programs) if _takes(known, args, kwargs)), None)
        if program is first:
            raise error
        if program is None:
            try:
                program = self._export(first, args, kwargs)
            except Exception as cause:  # torch and the module raise many types.
                failed = f"{type(cause).__name__}: {str(cause).strip().partition(chr(10))[0][:200]}"
                message = f"{error.message}. torch.export at these sizes failed: {failed}"
                raise ProgramError(error.code, message) from cause
            self._programs.append(program)
        program = copy.copy(program)
        program.options = first.options
        return program

    def _export(self, first: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Program:
        def resized(example: Any, other: Any) -> Any:
            if not isinstance(example, torch.Tensor):
                return example
            return example.new_zeros(other.shape).requires_grad_(example.requires_grad)

        examples = self._call.args, self._call.kwargs
        args, kwargs = _pytree.tree_map(resized, examples, (args, dict(kwargs)))
        with LOCK, jax.ensure_compile_time_eval():
            program = self._read(export_without_free_axes(self._call._replace(args=args, kwargs=kwargs)))
        require_tensors("params", first.params, program.params)
        require_tensors("buffers", first.buffers, program.buffers)
        program.params, program.buffers = first.params, first.buffers
        return program


def _takes(program: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    try:
        program.bind(args, kwargs)
    except ProgramError:
        return False
    return True
