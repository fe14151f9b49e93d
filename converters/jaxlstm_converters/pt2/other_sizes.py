"""`OtherSizes`: exports of a module for calls whose sizes or values its program does not take."""

import contextlib
import hashlib
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.core import Tracer
from jax.lax import stop_gradient
from torch.utils import _pytree

from jaxlstm._shared.own_thread import LOCK
from jaxlstm._shared.torch_methods import set_forward
from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.example_values import ALLOWED, ASSERTED, without
from jaxlstm.programs.inputs import require_tensors
from jaxlstm.programs.program import Program
from jaxlstm_converters.pt2._load_program import program_of
from jaxlstm_converters.pt2._read_pt2 import ProgramFile
from jaxlstm_converters.pt2.export_steps import ExportCall, ExportStep, export_at_sizes, export_in_steps
from jaxlstm_converters.pt2.trace.draft_decisions import Truths
from jaxlstm_converters.pt2.trace.export_patches import own_gradients
from jaxlstm_converters.pt2.trace.module_copies import copied
from jaxlstm_converters.pt2.trace.trace_packed import Cut, other_cuts, requires_cut

_ONLY_EXAMPLE = (
    "{}. Under jax.jit the program has the values of the example of from_module, and gives NaN for others"
)
_MOST = 64
"""Number of programs that are kept."""

_KEPT = (
    "A call exported the module again with its values. The results are right, but call_with_buffers keeps "
    "the old {}, which forward changes"
)


class _Other(NamedTuple):
    """A program that a call has made.

    Attributes:
        values: a hash of the values of the call, if the export depends on them.
        call: the arguments of the call as zeros, if their sizes, lists and constants are all that matters.
    """

    program: Program
    values: bytes | None = None
    call: tuple[Any, Any] | None = None


class OtherSizes:
    """The programs of a module at other sizes than its first, each exported for the first call of its sizes.

    Other lengths of lists and other constants have programs too. Examples of zeros are enough, unless an
    export depends on values. If the first one may, a call outside of ``jit`` that no program takes is
    exported with its values. Under ``jit`` values are hidden. If the first export fixed truths only, the
    values of an export at other sizes are the example's, repeated, and the other branches of a few
    conditions are programs too. At the sizes of the example, an operator that cannot do without hidden
    values has the example's. Programs assert the values that their exports fixed.
    """

    def __init__(
        self,
        call: ExportCall,
        first: ExportStep,
        finish: Callable[[torch.export.ExportedProgram], ProgramFile],
        program: Program,
    ) -> None:
        """Copy the module, except the memory of its parameters.

        ``finish`` reads an export, and ``program`` is the first.
        """
        shared = {
            id(parameter): torch.nn.Parameter(parameter.detach(), parameter.requires_grad)
            for parameter in call.module.parameters()
            if type(parameter) is torch.nn.Parameter
        }
        self._call = call._replace(module=copied(call.module, shared))
        set_forward(self._call.module, call.method)
        self._finish, self._has_values = finish, bool(first.fixed) or requires_cut(program.graph)
        self._truths: dict[int, tuple[Any, Truths | None]] = {}  # by the identity of a program's graph
        self._first, self._first_truths = program, first.truths
        self._branches = dict[Any, tuple[Program, ...]]()  # by graph and shapes
        self._programs: tuple[_Other, ...] = ()  # Replaced as a whole: other threads may read it.

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Leave the module out of a pickled program."""
        return type(None), ()

    def __call__(
        self,
        first: Program,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        error: ProgramError,
        run: Callable[[Program], Any],
    ) -> Any:
        """Run a program that takes the arguments, for which the first raised an error."""
        if error.code == "input-structure" and not self._differs_in_lists(args, kwargs):
            raise error
        # Under jax.grad outside of jit, the values are known.
        leaves, structure = jax.tree.flatten((args, kwargs))
        leaves = [stop_gradient(leaf) if isinstance(leaf, Tracer) else leaf for leaf in leaves]
        args, kwargs = jax.tree.unflatten(structure, leaves)
        is_known = not any(isinstance(leaf, Tracer) for leaf in leaves)
        is_allowed = ALLOWED.get() and not is_known
        values = _hash(leaves) if is_known and self._programs else None
        # Under jit with known arguments, parameters may be unknown, and no error shows that a value differs.
        is_traced = isinstance(jnp.zeros(()), Tracer)
        fitting = [
            other.program
            for other in self._programs
            if other.values is None or (is_known and (not is_traced or other.values == values))
            if other.program.takes(args, kwargs)
        ]
        stored = self.stored() if error.code == "guard" else ()
        branches = [program for program in stored if program.takes(args, kwargs)]
        fits = bool(fitting or branches) or (self._has_values and first.takes(args, kwargs))
        # A value that follows from sizes may decide a condition in another way than in the example.
        is_repeated = self._has_values and is_allowed and (not fits or error.code == "guard")
        is_draft = is_repeated and self._first_truths is not None
        zeros, given, repeated = (
            partial(self._export, *kind) for kind in ((_zeros, 1), (_given, 4), (_repeated, 3))
        )
        exports = [zeros] * (not fits) + [given] * (self._has_values and is_known) + [repeated] * is_draft
        # Where jit hides the values, some of the branches are not enough, unless torch cannot export more.
        ready, others = (fitting, branches) if is_draft else ([*fitting, *branches], [])
        for program in (*ready, *exports, *others):
            try:
                if isinstance(program, Program):
                    return run(program)
                exported = program(first, args, kwargs, error)
                other = _Other(
                    exported,
                    _hash(leaves) if program is given else None,
                    _as_zeros((args, dict(kwargs))) if program is zeros else None,
                )
                self._programs = (*self._programs, other)[-_MOST:]
                return run(exported)
            except ProgramError as refused:  # Its values differ, or it has other sizes.
                error = refused
        if is_repeated and self._first_truths is None:
            # Fixed values must follow from sizes and constants: others would nearly always differ.
            with contextlib.suppress(ProgramError), without(ASSERTED):
                program = self._export(_repeated, 4, first, args, kwargs, error)
                result = run(program)
                self._programs = (*self._programs, _Other(program))[-_MOST:]
                return result
        if is_allowed and error.code == "node-failed" and self._is_example((args, dict(kwargs))):
            result = run(self._export(_repeated, 4, first, args, kwargs, error))
            warnings.warn(_ONLY_EXAMPLE.format(error.message), UserWarning, stacklevel=2)
            return result
        raise error

    def _examples(self, args: Any, kwargs: Mapping[str, Any]) -> Any:
        """Return the arguments of the example, whose lists are as long as others."""
        return _with_lists((self._call.args, self._call.kwargs), (args, dict(kwargs)))

    def _differs_in_lists(self, args: Any, kwargs: Mapping[str, Any]) -> bool:
        """Return True if only lists have other lengths than in the example, and ``jit`` hides no constant."""
        examples, structure = _pytree.tree_flatten(self._examples(args, kwargs))
        others, other_structure = _pytree.tree_flatten((args, dict(kwargs)))
        return structure == other_structure and not any(
            isinstance(other, Tracer) and not isinstance(example, torch.Tensor)
            for example, other in zip(examples, others, strict=True)
        )

    def _is_example(self, given: Any) -> bool:
        """Return True for arguments with the shapes of the first example."""
        return _shapes((self._call.args, self._call.kwargs)) == _shapes(given)

    def branches(
        self, program: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Program, ...]:
        """Return the programs of the other branches for a call, if there are few conditions.

        The branches of the first program have its free axes, if torch can export them with free axes.
        """
        known = self._truths.get(id(program.graph))
        if known is None:
            found = self.stored()
            if found and all(branch.takes(args, kwargs) for branch in found):
                return found
        return self._branches_of(program, known[1] if known else self._first_truths, args, kwargs)

    def stored(self) -> tuple[Program, ...]:
        """Return the other branches of the first program with free axes; none if torch cannot export one."""
        example = self._call.args, self._call.kwargs
        return self._branches_of(self._first, self._first_truths, *example, free=True)

    def of_sizes(self) -> tuple[Program, ...]:
        """Return programs of the sizes, lists and constants of former calls, with free axes if possible."""
        found = list[Program]()
        for other in self._programs:
            call = other.call
            if call is None:
                found += [other.program] if other.values is None else []
            elif not any(program.takes(*call) for program in found):
                failed = ProgramError("input-shape", "no axis can be free")
                try:
                    found.append(self._export(_zeros, 1, self._first, *call, failed, free=True))
                except ProgramError:
                    found.append(other.program)
        return tuple(found)

    def _branches_of(
        self, program: Program, truths: Truths | None, args: Any, kwargs: Any, *, free: bool = False
    ) -> tuple[Program, ...]:
        key = id(program.graph), free, *_shapes((args, dict(kwargs)))
        if key not in self._branches:
            found = list[Program]()
            waiting: list[tuple[bool, ...] | tuple[Cut, ...]] = [*(truths.others() if truths else [])]
            waiting += other_cuts(program.graph)
            for first in waiting:
                failed = ProgramError("node-failed", "there is no other branch")
                # A branch may not run on the example.
                with contextlib.suppress(ProgramError):
                    found.append(self._export(_repeated, 3, program, args, kwargs, failed, first, free))
                    truths = self._truths[id(found[-1].graph)][1]
                    waiting += truths.others() if truths else []
            self._branches[key] = () if free and len(found) < len(waiting) else tuple(found)
        return self._branches[key]

    def in_training(self) -> ProgramFile | str:
        """Return the export of the module in training mode, or the reason why there is none."""
        module = self._call.module
        modes = {part: part.training for part in module.modules()}
        states = random.getstate(), np.random.get_state()
        call = self._call._replace(runs=lambda call, exported: True)
        with LOCK, own_gradients(module):
            try:
                module.train()
                _, file = export_in_steps(call, self._finish)
            except Exception as error:  # torch and the module raise many types.
                return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
            finally:
                for part, mode in modes.items():
                    part.training = mode
                drawn = str(states) != str((random.getstate(), np.random.get_state()))
                random.setstate(states[0])
                np.random.set_state(states[1])
        return "its code draws random numbers of Python or NumPy" if drawn else file

    def _export(
        self,
        example_for: Callable[[torch.Tensor, Any], torch.Tensor],
        step: Literal[1, 3, 4],
        first: Program,
        args: Any,
        kwargs: Mapping[str, Any],
        error: ProgramError,
        truths: tuple[bool, ...] | tuple[Cut, ...] | None = None,
        free: bool = False,
    ) -> Program:
        """Return the program of another export, or raise the error with the reason why there is none."""

        def leaf_for(example: Any, other: Any) -> Any:
            if not isinstance(example, torch.Tensor):
                return other if type(other) is type(example) else example
            return example_for(example, other).requires_grad_(example.requires_grad)

        try:
            with LOCK, jax.ensure_compile_time_eval():
                args, kwargs = _pytree.tree_map(leaf_for, self._examples(args, kwargs), (args, dict(kwargs)))
                call = self._call._replace(args=args, kwargs=kwargs, changed={})
                exported = export_at_sizes(call, step, truths, free=free)
                program = program_of(self._finish(exported.program))
        except Exception as cause:  # torch and the module raise many types.
            failed = f"{type(cause).__name__}: {str(cause).strip().partition(chr(10))[0][:200]}"
            message = f"{error.message}. torch.export at these sizes failed: {failed}"
            raise ProgramError(error.code, message) from cause
        require_tensors("params", first.params, program.params)
        require_tensors("buffers", first.buffers, program.buffers)
        program.params, program.buffers = first.params, first.buffers
        lost = {*first.mutated_buffers} - {*program.mutated_buffers}
        if names := sorted(name for name in lost if f"self.{name}" in call.changed):
            warnings.warn(_KEPT.format(", ".join(names)), UserWarning, stacklevel=2)
        self._truths[id(program.graph)] = program.graph, exported.truths
        return program


def _shapes(tree: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(getattr(leaf, "shape", ())) for leaf in _pytree.tree_leaves(tree))


def _with_lists(example: Any, other: Any) -> Any:
    """Return an example whose lists have the lengths of others, their elements repeated or cut off."""
    if isinstance(example, list) and isinstance(other, list) and example:
        return [_with_lists(example[n % len(example)], part) for n, part in enumerate(other)]
    if isinstance(example, dict) and isinstance(other, dict) and example.keys() == other.keys():
        return {name: _with_lists(part, other[name]) for name, part in example.items()}
    if type(example) is type(other) is tuple and len(example) == len(other):
        return tuple(map(_with_lists, example, other))
    return example


def _hash(leaves: Sequence[Any]) -> bytes:
    """Return a hash of the values of arguments, which are known."""
    digest = hashlib.sha256()
    for leaf in leaves:
        array = np.asarray(leaf)
        value = repr(leaf).encode() if array.dtype == object else array.tobytes()
        digest.update(f"{array.dtype} {array.shape} ".encode() + value)
    return digest.digest()


def _as_zeros(tree: Any) -> Any:
    """Return arguments whose arrays are zeros of the same shapes, without memory of their own."""
    return jax.tree.map(
        lambda leaf: (
            np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape) if hasattr(leaf, "shape") else leaf
        ),
        tree,
    )


def _zeros(example: torch.Tensor, other: Any) -> torch.Tensor:
    return torch.zeros(other.shape, dtype=example.dtype, device=example.device)


def _given(example: torch.Tensor, other: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(other).tolist(), dtype=example.dtype, device=example.device)


def _repeated(example: torch.Tensor, other: Any) -> torch.Tensor:
    """Return the example at the sizes of ``other``, its elements repeated or cut off along each axis."""
    for axis, size in enumerate(other.shape):
        example = example.index_select(axis, torch.arange(size) % example.shape[axis])
    return example.detach().clone()
