"""A port, which is any callable that claims to be an LSTM, and how it is run.

A port is called as ``port(inputs, initial_state, seq_lengths)`` with time-major JAX arrays and gives
``(outputs, (h_n, c_n))``. From its signature follows what else it can be asked:

- no ``seq_lengths`` or no ``initial_state``: it is verified on what it takes;
- a parameter named ``params``: it is handed the parameters under torch's names, in the dtype at work,
  and the gradient of each is checked. A port without it holds its own weights.

``h_n`` or ``c_n`` may be None if the port does not tell them.
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

from jaxlstm.check.answer import Answer
from jaxlstm.check.inputs import Case
from jaxlstm.config import LSTMConfig

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class PortError(TypeError):
    """What was given as a port is none: it cannot be called as one, or does not answer as one."""


@dataclass(frozen=True)
class Port:
    """A callable, and which of an LSTM's arguments it takes."""

    call: Callable[..., Any]
    takes_params: bool = False
    takes_state: bool = True
    takes_lengths: bool = True

    @classmethod
    def of(cls, call: Callable[..., Any]) -> Port:
        """Read a callable's signature.

        Raises:
          PortError: not a callable, or one that takes no inputs.
        """
        if not callable(call):
            raise PortError(f"port must be callable, got {type(call).__name__}")
        parameters = inspect.signature(call).parameters
        if any(p.kind == inspect.Parameter.VAR_POSITIONAL for p in parameters.values()):
            return cls(call, "params" in parameters)
        names = [name for name, p in parameters.items() if p.kind not in _VARIADIC]
        required = [
            name
            for name, p in parameters.items()
            if p.default is p.empty and p.kind == p.KEYWORD_ONLY and name != "params"
        ]
        positional = [
            name
            for name in names
            if name != "params" and parameters[name].kind != inspect.Parameter.KEYWORD_ONLY
        ]
        if not positional or required:
            raise PortError(
                "port must be callable as port(inputs, initial_state, seq_lengths), or with the first "
                f"one or two of them, got the signature {inspect.signature(call)}"
            )
        return cls(call, "params" in names, len(positional) > 1, len(positional) > 2)

    def adapt(self, case: Case) -> Case:
        """The part of a case that this port can be asked."""
        return case.without(state=not self.takes_state, lengths=not self.takes_lengths)

    def run(
        self,
        params: Mapping[str, Any],
        case: Case,
        dtype: Any,
        *,
        gradients: bool = False,
        precision: str | None = "highest",
    ) -> Answer:
        """The port's answer to a case in a dtype; 64-bit JAX is on for the length of a float64 run.

        Raises:
          PortError: the port does not give ``(outputs, (h_n, c_n))``.
        """
        with _jax_settings(dtype, precision):
            case = self.adapt(case).astype(dtype)
            # device_put, since jnp.asarray of a NumPy array compiles a program for each new shape.
            arrays = {
                name: jax.device_put(np.asarray(a).astype(dtype)) for name, a in params.items()
            }
            x = jax.device_put(case.inputs)
            state = None
            if case.initial_state is not None:
                state = (
                    jax.device_put(case.initial_state[0]),
                    jax.device_put(case.initial_state[1]),
                )
            call = functools.partial(self._call, lengths=case.seq_lengths)
            if not gradients:
                return _answer(call(arrays, x, state))
            results, pull_back = jax.vjp(call, arrays, x, state)
            cotangents = tuple(
                None if r is None else jax.device_put(np.asarray(a).astype(r.dtype))
                for a, r in zip(case.cotangents, results, strict=True)
            )
            d_params, d_x, d_state = pull_back(cotangents)
            found = dict(d_params) if self.takes_params else {}
            found["inputs"] = d_x
            if d_state is not None:
                found |= {"h_0": d_state[0], "c_0": d_state[1]}
            by_name = {name: np.asarray(a) for name, a in found.items()}
            return _answer(results)._replace(gradients=by_name)

    def _call(self, params: Any, x: jax.Array, state: Any, lengths: Any) -> tuple[Any, Any, Any]:
        arguments: list[Any] = [x]
        if self.takes_state:
            arguments.append(state)
        if self.takes_lengths:
            arguments.append(
                None if lengths is None else jax.device_put(np.asarray(lengths, np.int32))
            )
        answer = self.call(*arguments, **({"params": params} if self.takes_params else {}))
        try:
            outputs, (h_n, c_n) = answer
        except (TypeError, ValueError):
            raise PortError(
                "port must return (outputs, (h_n, c_n)), each an array and the last two possibly None; "
                f"got {jax.tree_util.tree_structure(answer)}"
            ) from None
        return outputs, h_n, c_n


def own_port(config: LSTMConfig) -> Port:
    """Our own layer, jitted: a port that takes everything, and multiplies as JAX's settings say."""
    from jaxlstm.functional import lstm

    if config.batch_first:
        config = replace(config, batch_first=False)

    @jax.jit
    def port(inputs: Any, initial_state: Any, seq_lengths: Any, *, params: Any) -> Any:
        options: Any = {"config": config, "seq_lengths": seq_lengths, "precision": None}
        return lstm(params, inputs, initial_state, **options)  # the precision that is checked

    return Port.of(port)


def default_device() -> Any:
    """The device on which JAX runs what says nothing of devices."""
    config: Any = jax.config
    chosen = config.jax_default_device
    if isinstance(chosen, str):  # the name of a platform
        return jax.devices(chosen)[0]
    return chosen or jax.devices()[0]


def lacks_float64(device: Any) -> bool:
    """Whether float64 is less exact there than it is: a TPU makes it of two float32."""
    return device.platform == "tpu"


@contextlib.contextmanager
def _jax_settings(dtype: Any, precision: str | None) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if np.dtype(dtype) == np.float64:
            stack.enter_context(_enable_x64())
            if lacks_float64(
                default_device()
            ):  # what a port means is judged where there is float64
                stack.enter_context(jax.default_device(jax.devices("cpu")[0]))
        if precision is not None:  # reaches the products of a port that does not set its own
            stack.enter_context(jax.default_matmul_precision(precision))
        yield


def _enable_x64() -> contextlib.AbstractContextManager[Any]:
    """JAX's 64-bit mode for a while; it moved out of ``jax.experimental`` in JAX 0.8."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64  # type: ignore[attr-defined]

    return enable_x64(True)


def _answer(results: tuple[Any, Any, Any]) -> Answer:
    outputs, h_n, c_n = results
    return Answer(
        np.asarray(outputs),
        None if h_n is None else np.asarray(h_n),
        None if c_n is None else np.asarray(c_n),
    )
