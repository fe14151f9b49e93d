"""Ports: callables that should equal torch's LSTM, and how they are run.

A port is called as ``port(inputs, initial_state, seq_lengths)`` with time-major JAX arrays and returns
``(outputs, (h_n, c_n))``. Its signature selects the checks:

- Without ``seq_lengths``, or without ``seq_lengths`` and ``initial_state``, it is checked on dense batches
  or from a zero state.
- With an argument named ``params``, it receives the parameters under torch's names in the dtype of the run,
  and the gradient of each is checked. Other ports hold their own weights.

A port that does not compute ``h_n`` or ``c_n`` returns None in its place.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.errors import ConcretizationTypeError, TracerArrayConversionError

from jaxlstm.check.cases.case import Case, Results
from jaxlstm.check.exceptions import PortError, describe
from jaxlstm.check.reference.jax_runs import jax_settings, split, to_numpy, with_gradients
from jaxlstm.layer.config import LSTMConfig

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass
class Port:
    """A callable with the parameters that it should have, as the subject of a verification.

    Attributes:
      takes_params, takes_state, takes_lengths: the arguments that the callable takes after the inputs.
      precision: the precision of matrix products in a port that sets none; None keeps JAX's default.
      not_differentiable: the reason why JAX cannot differentiate the port, or an empty string.
      has_float64_copy: if true, float64 runs are of a copy that was cast to float64.
    """

    call: Callable[..., Any]
    takes_params: bool
    takes_state: bool
    takes_lengths: bool
    params: Mapping[str, Any]
    config: LSTMConfig
    precision: str | None
    not_differentiable: str = ""
    noun = "port"
    has_float64_copy = False
    optional_outputs = frozenset({"h_n", "c_n"})
    derived = ()

    @classmethod
    def of(
        cls,
        call: Callable[..., Any],
        params: Mapping[str, Any],
        config: LSTMConfig,
        precision: str | None = "highest",
    ) -> Port:
        """Read the signature of a callable.

        Raises:
          PortError: if it is not callable, or takes no inputs.
        """
        if not callable(call):
            raise PortError(f"port must be callable, got {type(call).__name__}")
        parameters = dict(inspect.signature(call).parameters)
        takes_params = parameters.pop("params", None) is not None
        kinds = [p.kind for p in parameters.values()]
        required = [p for p in parameters.values() if p.default is p.empty and p.kind == p.KEYWORD_ONLY]
        positional = 3 if inspect.Parameter.VAR_POSITIONAL in kinds else sum(k in _POSITIONAL for k in kinds)
        if not positional or required:
            raise PortError(
                "port must be callable as port(inputs, initial_state, seq_lengths) or with the first one "
                f"or two of these arguments, got the signature {inspect.signature(call)}"
            )
        return cls(call, takes_params, positional > 1, positional > 2, params, config, precision)

    def adapt(self, case: Case) -> Case:
        """Return the case without the arguments that the port does not take."""
        state = () if self.takes_state else ("h_0", "c_0")
        return case.without(*state, *(() if self.takes_lengths else ("seq_lengths",)))

    def run(self, case: Case, dtype: Any, *, gradients: bool = False) -> Results:
        """Run the port on a case in ``dtype``, without gradients once JAX has failed to differentiate it.

        A float64 run enables 64-bit JAX for its duration.

        Raises:
          PortError: if the port does not return ``(outputs, (h_n, c_n))``.
        """
        with jax_settings(dtype, self.precision):
            case = self.adapt(case)
            params = self.params if self.takes_params else {}
            arrays = {n: jax.device_put(np.asarray(a).astype(dtype)) for n, a in params.items()}
            call = arrays, *split(case, dtype)
            if gradients and not self.not_differentiable:
                cotangents = jax.device_put(dict(case.astype(dtype).cotangents))
                try:
                    return Results(*map(to_numpy, with_gradients(self._call)(*call, cotangents)))
                except (TracerArrayConversionError, ConcretizationTypeError) as error:
                    self.not_differentiable = f"JAX cannot differentiate the port: {describe(error)}"
            return Results(to_numpy(self._call(*call)))

    def _call(self, params: Any, floating: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
        args: list[Any] = [floating["inputs"]]
        if self.takes_state:
            args.append((floating["h_0"], floating["c_0"]) if "h_0" in floating else None)
        if self.takes_lengths:
            args.append(others.get("seq_lengths"))
        returned = self.call(*args, **({"params": params} if self.takes_params else {}))
        try:
            outputs, (h_n, c_n) = returned
        except (TypeError, ValueError):
            structure = str(jax.tree_util.tree_structure(returned)).removeprefix("PyTreeDef(")[:-1]
            raise PortError(
                "port must return (outputs, (h_n, c_n)), where h_n and c_n are arrays or None; "
                f"got {structure.replace('*', 'array')}"
            ) from None
        results = {"outputs": outputs, "h_n": h_n, "c_n": c_n}
        return {name: a for name, a in results.items() if a is not None}

    def run_float64(self, case: Case, *, gradients: bool) -> Results:
        """Run the port in float64."""
        return self.run(case, np.float64, gradients=gradients)

    def comparable(self, results: Results, case: Case, truth: Callable[[], Results]) -> Results:
        """Return the results: a port and its references pad to the same length."""
        return results

    def other_dtype(self, results: Results, dtype: Any) -> np.dtype | None:
        """Return the dtype of the outputs unless it is ``dtype``. A state of another dtype is a fault."""
        output_dtype = results.outputs["outputs"].dtype if "outputs" in results.outputs else dtype
        return None if output_dtype == dtype else output_dtype

    def aligned(self, results: Results, truth: Results, *, resolve: bool = False) -> Results:
        """Return the results: a port names its gradients as torch does."""
        return results

    def float32_inside(self, case: Case) -> str:
        """Return nothing: a port must compute in the dtype of its inputs."""
        return ""

    def untested(self, gradients: bool) -> Iterator[tuple[str, str]]:
        """Yield each property that the port does not allow to test, and why."""
        if not self.takes_lengths:
            yield "ragged lengths", "the port takes no seq_lengths"
        if not self.takes_state:
            yield (
                "initial state",
                "the port takes no initial_state; large cell states are untested too, such as a clipped c",
            )
        if self.not_differentiable:
            yield "gradients", self.not_differentiable
        elif gradients and not self.takes_params:
            yield (
                "gradients of parameters",
                "the port holds its own weights; give it an argument named params",
            )


@functools.lru_cache(maxsize=16)
def own_port(config: LSTMConfig) -> Callable[..., Any]:
    """Return jaxlstm's own layer, jitted. Its products follow JAX's default precision.

    The function of a config is cached, so that checks in several dtypes share compiled programs.
    """
    from jaxlstm.functional import lstm

    if config.batch_first:
        config = replace(config, batch_first=False)

    @jax.jit
    def port(inputs: Any, initial_state: Any, seq_lengths: Any, *, params: Any) -> Any:
        # precision=None takes the precision of the check.
        return lstm(params, inputs, initial_state, config=config, seq_lengths=seq_lengths, precision=None)

    return port


def name_of(port: Callable[..., Any] | None) -> str:
    """Return the name of a port in reports."""
    return "jaxlstm.lstm" if port is None else getattr(port, "__name__", type(port).__name__)
