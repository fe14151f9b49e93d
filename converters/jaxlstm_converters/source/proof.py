"""The proof of a written model: it runs, and is compared with the program from which it was written."""

import contextlib
import copy
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxlstm._shared.progress import Progress
from jaxlstm.check import Report, verify_model
from jaxlstm.check.cases.case import Array, Case, is_floating, named_outputs
from jaxlstm.check.exceptions import PORT_EXCEPTIONS
from jaxlstm.check.reference.jax_model import JaxModel
from jaxlstm.check.reference.jax_runs import Jitted, depends_on_values, jax_settings, split, to_numpy
from jaxlstm.check.reference.program import ProgramModel
from jaxlstm.check.subjects.flax_model import FlaxModel
from jaxlstm.inference.random_inputs import random_inputs
from jaxlstm.programs.errors import ProgramError
from jaxlstm.programs.graph import Graph, all_nodes
from jaxlstm.programs.inputs import as_arguments
from jaxlstm.programs.program import Program
from jaxlstm_converters.flax._load_state_dict import load_state_dict
from jaxlstm_converters.porting_warning import PortingWarning
from jaxlstm_converters.source.files import SourceFiles

_NOT_MADE = (*PORT_EXCEPTIONS, ImportError, SyntaxError, PortingWarning)
_LARGEST = 100_000_000
_SIZES = (0, 7)
"""The smallest sizes of the comparisons of values."""
_EQUAL = 1e-6
"""A difference in float64, relative to the largest number of a result, that rounding rarely causes."""

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Proof:
    """The comparison of a written model with its program.

    Attributes:
      report: the report of ``verify_model``; None if the model could not be made or filled.
      problem: the reason why it could not.
      sizes: the number of sizes of the inputs.
      arguments: the example, as (args, kwargs).
      compared: the comparisons at the example besides values.
      is_jitted: False for a model with shapes that depend on values, which runs only outside of ``jax.jit``.
    """

    report: Report | None
    problem: str
    sizes: int
    arguments: Arguments
    compared: str = "gradients"
    is_jitted: bool = True

    @property
    def holds(self) -> bool:
        """True if the model equals the program on every case that the program takes."""
        # A model may refuse the cases of a module. A written model must take them, at all sizes.
        return self.report is not None and self.report.ok and not self.refused and not self.problem

    @property
    def refused(self) -> list[str]:
        """The cases that the program takes, and the model does not."""
        items = self.report.items if self.report is not None else ()
        return [f"{item.name}: {item.detail}" for item in items if item.id == "refused"]

    @property
    def verdict(self) -> str:
        """The verdict in words, for a model that holds."""
        untested = {item.id for item in self.report.items if item.ok is None} if self.report else set()
        dtypes = "float32" if "float64" in untested else "float64 and float32"
        compared = "values" if "untested" in untested else f"values and {self.compared}"
        where = "" if self.is_jitted else ", outside of jax.jit only"
        sizes = f"{self.sizes} size{'s' * (self.sizes != 1)}"
        return f"equal to the program in {dtypes}, {compared}, at {sizes}{where}"

    @property
    def lines(self) -> list[str]:
        """The reasons why the model does not hold."""
        problem = [self.problem] if self.problem else []
        if self.report is None:
            return problem
        failures = [f"{item.name}: {item.detail}" for item in self.report.failures]
        return [*failures, *self.refused, *problem, *self.report.diagnosis]


def example_of(program: Program) -> Arguments:
    """Return random arguments of a program."""
    tensors = random_inputs(program)
    if tensors is None:
        raise ValueError(
            "the program refuses inputs of all sizes that were tried; call jaxlstm.check.verify_model with "
            "an example of yours"
        )
    return as_arguments(program.graph, tensors)


def prove(
    files: SourceFiles,
    program: Program,
    progress: Progress | None = None,
    arguments: Arguments | None = None,
    method: str = "__call__",
) -> Proof:
    """Run the source in a separate module, fill the model from its weights, and verify a method of it.

    ``arguments`` is an example. The default is a random one, or else the export's, if the program takes it
    under ``jax.jit``; the proof tells if it takes none.

    Raises:
        ProgramError: the program refuses ``arguments`` under ``jax.jit``.
    """
    try:
        model = load_written(files)
    except _NOT_MADE as error:
        problem = f"the model cannot be made: {type(error).__name__}: {error}"
        return Proof(None, problem, 0, arguments or program.example or ((), {}))
    forward = lacks_reverse(program.graph)
    call = None if method == "__call__" else partial(_call, method)
    settings: Any = {"call": call, "gradients": not forward, "progress": progress}
    refusal = ""
    for example in _examples(program) if arguments is None else [arguments]:
        try:
            report = verify_model(model, program, *example, **settings)
        except ProgramError as error:
            if arguments is not None:
                raise
            refusal = f": {error}"
            continue
        problem = _difference(model, program, example, method, forward=True) if forward and report.ok else ""
        compared = "forward derivatives" if forward else "gradients"
        is_jitted = not report.ok or _is_jitted(model, example, method)
        return Proof(report, problem, report.settings["sizes"], example, compared, is_jitted)
    return Proof(
        None, f"nothing was compared, since the program takes no input of the proof{refusal}", 0, ((), {})
    )


def _examples(program: Program) -> Iterator[Arguments]:
    """Yield a random example, and the export's example."""
    with contextlib.suppress(ValueError):
        yield example_of(program)
    if program.example is not None:
        yield program.example


def _call(method: str, model: Any, *args: Any, **kwargs: Any) -> Any:
    return getattr(model, method)(*args, **kwargs)


def unproven(files: SourceFiles, program: Program, method: str) -> str:
    """Return the reason why a method could not be compared with its program; "" if the values are equal.

    Values in float64 are compared twice, at two sizes if there are others. A difference may be rounding: then
    the whole proof decides.

    Raises:
      ProgramError: the source differs from the program.
    """
    if sum(array.size for array in files.tensors.values()) > _LARGEST:
        return f"it has more than {_LARGEST:,} parameters"
    inputs = [random_inputs(program, seed=seed, smallest=size) for seed, size in enumerate(_SIZES)]
    given = [as_arguments(program.graph, tensors) for tensors in inputs if tensors is not None]
    if len(given) < len(_SIZES):
        return "the program refuses random inputs"
    with tempfile.TemporaryDirectory() as folder:
        names = {"source": files.source.name, "weights": files.weights.name}
        trial = replace(files, **{key: Path(folder, name) for key, name in names.items()})
        trial.write(overwrite=True)
        model = None
        with contextlib.suppress(*_NOT_MADE):
            model = load_written(trial)
        for arguments in given:
            if refusal := _refusal(program, arguments):
                return f"the program refuses random inputs: {refusal}"
            with contextlib.suppress(*_NOT_MADE):
                if model is not None and not _difference(model, program, arguments, method):
                    continue
            try:
                proof = prove(trial, program, arguments=arguments, method=method)
            except ProgramError as error:
                return f"the program refuses random inputs: {error}"
            if not proof.holds:
                text = f"the source differs from the program: {'; '.join(proof.lines)}"
                raise ProgramError("unproven-source", f"{text}. 'jaxlstm convert' writes it nevertheless")
    return ""


def _refusal(program: Program, arguments: Arguments) -> ProgramError | None:
    """Return the error of the first export on arguments, for which its results under ``jit`` are NaN."""
    first, (args, kwargs) = copy.copy(program), arguments
    first.at_sizes = None
    try:
        first(first.params, *args, **kwargs)
    except ProgramError as error:
        return error
    return None


def load_written(files: SourceFiles) -> nnx.Module:
    """Return the model of written source in evaluation mode, with the weights of its file."""
    # Random weights would be compiled, for nothing.
    model = nnx.eval_shape(lambda: make_written(files))
    model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error", PortingWarning)
        load_state_dict(model, files.weights)
    nnx.update(model, jax.tree.map(_drawn, nnx.state(model, nnx.RngState)))
    return model


def _drawn(abstract: jax.ShapeDtypeStruct) -> jax.Array:
    """Return the state of a stream of random numbers, of which a model in evaluation mode draws none."""
    is_key = jnp.issubdtype(abstract.dtype, jax.dtypes.prng_key)
    return jax.random.key(0) if is_key else jnp.zeros(abstract.shape, abstract.dtype)


def make_written(files: SourceFiles) -> nnx.Module:
    """Run written source in a separate module, and return its model with random weights."""
    module = ModuleType(files.source.stem)
    exec(compile(files.source.read_text("utf-8"), str(files.source), "exec"), vars(module))
    return getattr(module, files.model)(rngs=nnx.Rngs(0))


def _difference(
    model: Any, program: Program, arguments: tuple[Any, Any], method: str, *, forward: bool = False
) -> str:
    """Return the result that differs between a method and a program, in words; "" if all are equal.

    ``forward`` compares the derivatives of the results, in the direction of other numbers for all parameters
    and inputs.
    """
    case = Case.of_model("example", *arguments)
    subjects = FlaxModel(model, partial(_call, method)), ProgramModel(program)
    ours, theirs = (_run(subject, case, forward) for subject in subjects)
    what = "forward derivative of " if forward else ""
    if ours.keys() != theirs.keys():
        return f"{what}results: the model returns {[*ours]}, the program {[*theirs]}"
    for name, expected in theirs.items():
        if ours[name].shape != expected.shape:
            return f"{what}{name}: shape {ours[name].shape}, expected {expected.shape}"
        limit = _EQUAL * np.max(np.abs(expected), initial=0, where=np.isfinite(expected))
        if not np.allclose(ours[name], expected, rtol=0, atol=limit, equal_nan=True):
            return f"{what}{name}: other values"
    return ""


def lacks_reverse(graph: Graph) -> bool:
    """Return True for a graph with a loop through which JAX computes forward derivatives only."""
    return any(node.op == "higher_order.while_loop" for node in all_nodes(graph))


def _is_jitted(model: Any, arguments: Arguments, method: str) -> bool:
    """Return True unless JAX cannot trace a model, because shapes depend on values."""
    with jax_settings(np.float64, "highest"):
        run, given = _function(
            FlaxModel(model, partial(_call, method)), Case.of_model("example", *arguments), False
        )
        try:
            jax.eval_shape(run, *given)
        except PORT_EXCEPTIONS as error:
            if not depends_on_values(error):
                raise
            return False
    return True


def _run(subject: JaxModel, case: Case, forward: bool) -> dict[str, Array]:
    with jax_settings(np.float64, "highest"):
        outputs, given = _function(subject, case, forward)
        if not forward:
            return to_numpy(Jitted(outputs)(*given))
        # Torch's layout of a parameter and Flax's have the same direction.
        direction = jax.tree.map(lambda a: jnp.cos(1_000 * a), given)
        return to_numpy(Jitted(lambda *point: jax.jvp(outputs, point, direction)[1])(*given))


def _function(subject: JaxModel, case: Case, forward: bool) -> tuple[Callable[..., dict[str, Any]], Any]:
    """Return the results of a model as a function of parameters and inputs, and these."""
    call = subject.call_in(np.float64)
    floating, others = split(case, np.float64)
    buffers = jax.device_put(dict(call.buffers))

    def outputs(params: Any, floating: Any) -> dict[str, Any]:
        args, kwargs = case.call({**floating, **others})
        found = named_outputs(call.function({**params, **buffers}, args, kwargs)).items()
        return {n: a for n, a in found if not forward or (hasattr(a, "dtype") and is_floating(a))}

    return outputs, (jax.device_put(dict(call.params)), floating)
