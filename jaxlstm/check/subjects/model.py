"""Subjects of a verification, and a model as one of them."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from jaxlstm.check.cases.case import Case, Results, is_floating
from jaxlstm.check.criteria.difference import without_padding
from jaxlstm.check.exceptions import PORT_EXCEPTIONS
from jaxlstm.check.reference.jax_model import JaxModel, ModelRunner
from jaxlstm.check.reference.program import ProgramReference
from jaxlstm.check.reference.torch_faults.planted import run_planted
from jaxlstm.check.reference.torch_model import TorchModel
from jaxlstm.check.subjects.moves import Moves, moved_arrays
from jaxlstm.check.subjects.pairing import ModuleNames, Pairing, pair_parameters
from jaxlstm.check.subjects.port import Port


def longest_packed(theirs: TorchModel, case: Case) -> int:
    """Return the length of the longest sequence that a module packs, or 0 if it packs none."""
    graph = getattr(theirs.module(theirs.dtype), "graph", None)
    if graph is None:
        layers = run_planted(theirs, case, theirs.dtype, {}, record=True).layers
        return layers[-1].ragged if layers else 0
    lengths = [a.max(initial=0) for a in case.arrays.values() if a.dtype.kind == "i" and a.ndim == 1]
    packs = any("pack_padded" in str(node.target) for node in graph.nodes)
    return int(max(lengths, default=0)) if packs else 0


class ModelSubject:
    """A model in the dtype of a torch module and in float64.

    Attributes:
      theirs: the reference that it should equal.
      names: the paths of its modules in torch.
      pairing: the layout of each of its parameters.
      padded: the outputs that go on after torch's longest sequence.
      casts: in words, where it converts float64 to float32 or computes in it; None if not determined.
    """

    noun = "model"
    has_float64_copy = True
    optional_outputs = frozenset[str]()

    def __init__(
        self,
        model: JaxModel,
        example: Case,
        theirs: TorchModel | ProgramReference,
        names: ModuleNames,
        precision: str | None,
    ) -> None:
        """Pair the parameters and prepare the model in both dtypes."""
        self.model, self.example, self.names, self.precision = model, example, names, precision
        self.casts: str | None = None
        self.padded: set[str] = set()
        self.theirs = theirs
        self.working = ModelRunner(model, example, theirs.dtype, cast_model=False, precision=precision)
        self.float64 = ModelRunner(model, example, np.float64, cast_model=True, precision=precision)
        self.float64.finfo_dtype = theirs.dtype
        params = theirs.params()
        tensors = {**params, **theirs.statistics()}
        self.pairing = pair_parameters(self.working.call.params, tensors, names.same_module)
        self._every_pair = Pairing(
            {
                **self.pairing.choices,
                **pair_parameters(self.working.call.buffers, theirs.statistics(), names.same_module).choices,
            }
        )
        sums = {
            name: (params[a].astype(np.float64) + params[b].astype(np.float64)).ravel()
            for name, (a, b) in self.pairing.summed().items()
        }
        exact = {name: total[self.pairing.choices[name][0][0].index] for name, total in sums.items()}
        self.float64 = self.float64.moved(exact)

    def adapt(self, case: Case) -> Case:
        """Return the case: a model takes every argument."""
        return case

    def run(self, case: Case, dtype: Any, *, gradients: bool = False) -> Results:
        """Run the model in the dtype of the module, or its copy in float64."""
        runner = self.working if np.dtype(dtype) == self.working.dtype else self.float64
        return runner.run(case, gradients=gradients)

    def run_float64(self, case: Case, *, gradients: bool) -> Results:
        """Run the copy of the model in float64, also if the module is in float64."""
        return self.float64.run(case, gradients=gradients)

    def moves(self, gradients: tuple[Results, Results] | None, rng: np.random.Generator) -> Moves | None:
        """Return other values of the parameters and statistics of both models; None if nothing is known."""
        call = self.working.call
        try:
            constants = self.working.constants(self.example)
        except PORT_EXCEPTIONS:  # Control flow that depends on values.
            return None
        if not self.pairing.choices:
            return None
        ours = {**call.params, **call.buffers}
        theirs = {**self.theirs.params(), **self.theirs.statistics()}
        return moved_arrays(ours, theirs, self._every_pair, gradients, constants, rng)

    def moved(self, moves: Moves) -> "ModelSubject":
        """Return the subject with other values of the parameters."""
        clone = copy.copy(self)
        clone.working, clone.float64 = (runner.moved(moves.ours) for runner in (self.working, self.float64))
        return clone

    def takes(self, case: Case, example: Case) -> bool:
        """Return True if the model takes a case, traced into about as many operations as the example."""
        return self.working.size_of_trace(case) <= 1.1 * self.working.size_of_trace(example) + 40

    def comparable(self, results: Results, case: Case, truth: Callable[[], Results]) -> Results:
        """Return the results without the steps after the longest sequence, where torch's arrays end."""
        if not isinstance(self.theirs, TorchModel):
            return results
        expected = truth().outputs
        trimmed = {
            name: without_padding(a, expected[name].shape)
            for name, a in results.outputs.items()
            if name in expected and a.shape != expected[name].shape
        }
        trimmed = {name: a for name, a in trimmed.items() if a.shape == expected[name].shape}
        longest = longest_packed(self.theirs, case) if trimmed else 0
        if longest not in {n for a in trimmed.values() for n in a.shape}:
            return results
        self.padded |= trimmed.keys()
        return replace(results, outputs={**results.outputs, **trimmed})

    def other_dtype(self, results: Results, dtype: Any) -> np.dtype | None:
        """Return the first floating-point dtype among the results that is not ``dtype``, or None."""
        dtypes = (a.dtype for a in results.outputs.values() if is_floating(a))
        return next((other for other in dtypes if other != dtype), None)

    def aligned(self, results: Results, truth: Results, *, resolve: bool = False) -> Results:
        """Return the results with the gradients of parameters under torch's names and in torch's order.

        ``resolve`` settles from the gradients which parameters correspond where their values are equal.
        """
        if results.gradients is None or truth.gradients is None:
            return Results(results.outputs)
        if resolve:
            self.pairing = self.pairing.resolve(results.gradients, truth.gradients)
        inputs = {name: a for name, a in results.gradients.items() if name in self.example.arrays}
        return Results(results.outputs, inputs | self.pairing.gradients(results.gradients, truth.gradients))

    @property
    def derived(self) -> list[str]:
        """The parameters with values that torch's model has not, such as a folded normalization."""
        return self.pairing.unpaired

    def float32_inside(self, case: Case) -> str:
        """Return in words where a float64 run converts numbers to float32 or computes in it, if it does."""
        if self.casts is None:
            self.casts = self.float64.float32_inside(case)
        return self.casts

    def untested(self, gradients: bool) -> Iterator[tuple[str, str]]:
        """Yield the reason why the gradients of some parameters are not compared."""
        if not gradients:
            return
        if not self.pairing.choices:
            yield "gradients of parameters", "the function has no argument params"
        elif unpaired := self.pairing.unpaired:
            yield (
                "gradients of parameters",
                f"the values of {', '.join(unpaired)} are not a re-layout of any parameter of torch",
            )


Subject = Port | ModelSubject
"""A port of an LSTM with its parameters, or a model. Each has the methods of :class:`Port`."""
