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

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from jaxlstm.check.reference.cases import Case
from jaxlstm.check.reference.results import Results
from jaxlstm.layer.config import LSTMConfig

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class PortError(TypeError):
    """The port has the wrong signature or the wrong kind of return value."""


@dataclass(frozen=True)
class Port:
    """A callable and the arguments that it takes."""

    call: Callable[..., Any]
    takes_params: bool = False
    takes_state: bool = True
    takes_lengths: bool = True

    @classmethod
    def of(cls, call: Callable[..., Any]) -> Port:
        """Read the signature of a callable.

        Raises:
          PortError: if it is not callable, or takes no inputs.
        """
        if not callable(call):
            raise PortError(f"port must be callable, got {type(call).__name__}")
        parameters = dict(inspect.signature(call).parameters)
        takes_params = parameters.pop("params", None) is not None
        kinds = [p.kind for p in parameters.values()]
        if inspect.Parameter.VAR_POSITIONAL in kinds:
            return cls(call, takes_params)
        required = [p for p in parameters.values() if p.default is p.empty and p.kind == p.KEYWORD_ONLY]
        positional = sum(kind in _POSITIONAL for kind in kinds)
        if not positional or required:
            raise PortError(
                "port must be callable as port(inputs, initial_state, seq_lengths) or with the first one "
                f"or two of these arguments, got the signature {inspect.signature(call)}"
            )
        return cls(call, takes_params, positional > 1, positional > 2)

    def adapt(self, case: Case) -> Case:
        """Return the case without the arguments that this port does not take."""
        return case.without(state=not self.takes_state, lengths=not self.takes_lengths)

    def run(
        self,
        params: Mapping[str, Any],
        case: Case,
        dtype: Any,
        *,
        gradients: bool = False,
        precision: str | None = "highest",
    ) -> Results:
        """Run the port on a case in ``dtype``. A float64 run enables 64-bit JAX for its duration.

        Raises:
          PortError: if the port does not return ``(outputs, (h_n, c_n))``.
        """
        with jax_settings(dtype, precision):
            case = self.adapt(case).astype(dtype)
            # jnp.asarray of a NumPy array would compile a program for each new shape.
            arrays = {name: jax.device_put(np.asarray(a).astype(dtype)) for name, a in params.items()}
            x, state = jax.device_put((case.inputs, case.initial_state))
            call = functools.partial(self._call, lengths=case.seq_lengths)
            if not gradients:
                return _results(call(arrays, x, state))
            results, pull_back = jax.vjp(call, arrays, x, state)
            cotangents = tuple(
                None if r is None else jax.device_put(np.asarray(a).astype(r.dtype))
                for a, r in zip(case.cotangents, results, strict=True)
            )
            d_params, d_x, d_state = pull_back(cotangents)
            by_name = dict(d_params) if self.takes_params else {}
            by_name["inputs"] = d_x
            if d_state is not None:
                by_name |= {"h_0": d_state[0], "c_0": d_state[1]}
            by_name = {name: np.asarray(a) for name, a in by_name.items()}
            return _results(results)._replace(gradients=by_name)

    def _call(self, params: Any, x: jax.Array, state: Any, lengths: Any) -> tuple[Any, Any, Any]:
        args: list[Any] = [x]
        if self.takes_state:
            args.append(state)
        if self.takes_lengths:
            args.append(None if lengths is None else jax.device_put(np.asarray(lengths, np.int32)))
        returned = self.call(*args, **({"params": params} if self.takes_params else {}))
        try:
            outputs, (h_n, c_n) = returned
        except (TypeError, ValueError):
            structure = str(jax.tree_util.tree_structure(returned)).removeprefix("PyTreeDef(")[:-1]
            raise PortError(
                "port must return (outputs, (h_n, c_n)), where h_n and c_n are arrays or None; "
                f"got {structure.replace('*', 'array')}"
            ) from None
        return outputs, h_n, c_n


@functools.lru_cache(maxsize=16)
def own_port(config: LSTMConfig) -> Port:
    """Return jaxlstm's own layer, jitted, as a port. Its products follow JAX's default precision.

    The port of a config is cached, so that checks in several dtypes share compiled programs.
    """
    from jaxlstm.functional import lstm

    if config.batch_first:
        config = replace(config, batch_first=False)

    @jax.jit
    def port(inputs: Any, initial_state: Any, seq_lengths: Any, *, params: Any) -> Any:
        # precision=None takes the precision of the check.
        options: Any = {"config": config, "seq_lengths": seq_lengths, "precision": None}
        return lstm(params, inputs, initial_state, **options)

    return Port.of(port)


def name_of(port: Callable[..., Any] | None) -> str:
    """Return the name of a port in reports."""
    return "jaxlstm.lstm" if port is None else getattr(port, "__name__", type(port).__name__)


def default_device() -> Any:
    """Return the device that JAX uses by default."""
    config: Any = jax.config
    chosen = config.jax_default_device
    if isinstance(chosen, str):  # The name of a platform.
        return jax.devices(chosen)[0]
    return chosen or jax.devices()[0]


def lacks_float64(device: Any) -> bool:
    """Return True if the device emulates float64 with less precision. A TPU combines two float32."""
    return device.platform == "tpu"


@contextlib.contextmanager
def jax_settings(dtype: Any, precision: str | None) -> Iterator[None]:
    """Set the precision of products, and for float64 the 64-bit mode and a device that has it."""
    with contextlib.ExitStack() as stack:
        if np.dtype(dtype) == np.float64:
            stack.enter_context(_enable_x64())
            if lacks_float64(default_device()):
                stack.enter_context(jax.default_device(jax.devices("cpu")[0]))
        if precision is not None:  # It applies to the products of a port that sets no precision.
            stack.enter_context(jax.default_matmul_precision(precision))
        yield


def _enable_x64() -> contextlib.AbstractContextManager[Any]:
    """Enable JAX's 64-bit mode. The function moved out of ``jax.experimental`` in JAX 0.8."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64  # type: ignore[attr-defined]

    return enable_x64(True)


def _results(returned: tuple[Any, Any, Any]) -> Results:
    return Results(*(None if a is None else np.asarray(a) for a in returned))  # type: ignore[arg-type]
