"""The handlers of the native kernel reject arrays of a wrong shape, rank or dtype with an error."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.kernels.cpu.stack import prepare
from testing.problems import needs_native

pytestmark = needs_native
T, B, I, H, P = 3, 2, 4, 5, 3
DERIVATIVE = ("by_gates", "f", "m_by_c")
OPTIONAL = ("bias_ih", "bias_hh", "weight_hr", "valid", "m", "grad_projected", "grad_bias")
OMITTED: dict[str, tuple] = dict.fromkeys(OPTIONAL, (0,))
WEIGHTS = {"weight_hh": (4 * H, P), "weight_hr": (P, H)}
STEPS = {"by_gates": (T, B, 4 * H), "f": (T, B, H), "m_by_c": (T, B, H)}
FORWARD = {
    "x": (T, B, I),
    "weight_ih": (4 * H, I),
    "weight_hh": (4 * H, P),
    "bias_ih": (4 * H,),
    "bias_hh": (4 * H,),
    "weight_hr": (P, H),
    "h_0": (B, P),
    "c_0": (B, H),
    "valid": (T, B),
}
RESULTS = {"y": (T, B, P), "h_n": (B, P), "c_n": (B, H)}


class Handler(NamedTuple):
    """A handler, with the names and shapes of its arguments and results if there is a projection."""

    target: str
    arguments: dict[str, tuple[int, ...]]
    results: dict[str, tuple[int, ...]]

    def run(self, shapes: Mapping[str, tuple] = {}, dtypes: Mapping[str, Any] = {}, *, cell: int = 0) -> Any:
        """Run on zeros. ``shapes`` and ``dtypes`` replace the right ones."""
        default = {"valid": jnp.bool}
        arrays = {
            name: (shapes.get(name, shape), dtypes.get(name, default.get(name, jnp.float32)))
            for name, shape in (self.arguments | self.results).items()
        }
        results = [jax.ShapeDtypeStruct(*arrays[name]) for name in self.results]
        operands = [np.zeros(*arrays[name]) for name in self.arguments]
        call: Any = jax.ffi.ffi_call(self.target, results)
        attributes = {} if self.target == "jaxlstm_gradients" else {"cell": np.int64(cell)}
        return jax.block_until_ready(call(*operands, threads=np.int64(0), reverse=False, **attributes))


HANDLERS = [
    Handler("jaxlstm_forward", FORWARD, RESULTS | STEPS | {"m": (T, B, H)}),
    Handler(
        "jaxlstm_backward",
        WEIGHTS | STEPS | {"valid": (T, B), "grad_y": (T, B, P), "grad_h_n": (B, P), "grad_c_n": (B, H)},
        {"grad_gates": (T, B, 4 * H), "grad_projected": (T, B, P), "grad_h_0": (B, P), "grad_c_0": (B, H)},
    ),
    Handler(
        "jaxlstm_gradients",
        {
            "grad_gates": (T, B, 4 * H),
            "x": (T, B, I),
            "y": (T, B, P),
            "h_0": (B, P),
            "valid": (T, B),
            "weight_ih": (4 * H, I),
        },
        {
            "grad_x": (T, B, I),
            "grad_weight_ih": (4 * H, I),
            "grad_weight_hh": (4 * H, P),
            "grad_bias": (4 * H,),
        },
    ),
]
# Axes that define a size. If such an axis is wrong, the error names another array.
DEFINES = {"x": (0, 1, 2), "h_0": (1,), "c_0": (1,), "grad_y": (0, 1, 2), "grad_c_n": (1,)}
EACH = [
    pytest.param(handler, name, id=f"{handler.target.removeprefix('jaxlstm_')}-{name}")
    for handler in HANDLERS
    for name in handler.arguments | handler.results
]


def rejected(message: str) -> Any:
    return pytest.raises((ValueError, RuntimeError), match=message)


@pytest.mark.parametrize("handler", HANDLERS, ids=lambda handler: handler.target)
def test_right_arrays(handler: Handler) -> None:
    assert [result.shape for result in handler.run()] == list(handler.results.values())
    optional = [n for n in OPTIONAL if n in handler.arguments | handler.results]
    optional += [n for n in DERIVATIVE if n in handler.results]
    omitted = dict.fromkeys(optional, (0,))
    width = {n: (*s[:-1], H) for n, s in (handler.arguments | handler.results).items() if s[-1] == P}
    handler.run(width | omitted)


@pytest.mark.parametrize(("handler", "name"), EACH)
def test_wrong_dtype(handler: Handler, name: str) -> None:
    wrong = {name: jnp.int32}
    first = next(n for n in ("x", "grad_y", "grad_gates") if n in handler.arguments)
    with rejected("float32 or float64" if name == first else f"{name} has the wrong dtype"):
        handler.run(dtypes=wrong)
    if name != "valid":
        with rejected("wrong dtype"), jax.enable_x64(True):
            handler.run(dtypes={name: jnp.float64})


@pytest.mark.parametrize(("handler", "name"), EACH)
def test_wrong_rank(handler: Handler, name: str) -> None:
    shape = (handler.arguments | handler.results)[name]
    for wrong in ((*shape, 1), shape[:-1]):
        with rejected(rf"{name}|h_0 and c_0"):
            handler.run({name: wrong})


@pytest.mark.parametrize(("handler", "name"), EACH)
def test_wrong_size(handler: Handler, name: str) -> None:
    shape = (handler.arguments | handler.results)[name]
    for axis, size in enumerate(shape):
        for other in (size + 1, size - 1, 0):
            wrong = (*shape[:axis], other, *shape[axis + 1 :])
            if OMITTED.get(name) == wrong:
                continue  # an omitted bias
            if other == 0 and list(handler.results) == [name]:
                continue  # XLA makes no call for an empty result
            got = re.escape(f"got ({','.join(map(str, wrong))},)")
            defines = name in DEFINES or (name == "grad_gates" and name in handler.arguments)
            with rejected("must" if defines else f"{name} must have shape .*{got}"):
                handler.run({name: wrong})


def test_parts_that_belong_together() -> None:
    messages = {"weight_hr": "without weight_hr"}
    messages |= dict.fromkeys(("bias_ih", "bias_hh"), "bias_ih and bias_hh must be given together")
    messages |= dict.fromkeys(DERIVATIVE, "by_gates, f and m_by_c must be given together")
    for handler, names in ((HANDLERS[0], messages), (HANDLERS[1], ["weight_hr"])):
        for name in names:
            with rejected(messages[name]):
                handler.run({name: (0,)})


WITHOUT_C = ("weight_hr", "c_0", "c_n", "m_by_c", "m", "grad_c_n", "grad_c_0", "grad_projected")
GRU = {name: (3 * H, *FORWARD[name][1:]) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}


@pytest.mark.parametrize("handler", HANDLERS[:2], ids=lambda handler: handler.target)
def test_gru(handler: Handler) -> None:
    names = handler.arguments | handler.results
    right = {name: (*shape[:-1], H) for name, shape in names.items() if shape[-1] == P}
    right |= {**GRU, "weight_hh": (3 * H, H), **dict.fromkeys(WITHOUT_C, (0,))}
    handler.run(right, cell=1)
    with rejected("the cell must be 0 or 1"):
        handler.run(right, cell=2)
    with rejected(r"weight_hh must have shape \(15,5,\)"):
        handler.run({**right, "weight_hh": (4 * H, H)}, cell=1)
    for name in (name for name in WITHOUT_C if name in names):
        with rejected("a GRU has no c and no projection"):
            handler.run({**right, name: names[name]}, cell=1)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("x", (2, B, I + 9), "prepared must have shape"),
        ("prepared", (7,), "prepared must have shape"),
        ("c_0", (1, B, H + 1), "c_0 must have shape"),
        ("h_0", (1, B, 0), "hidden_size .* must be at least 1"),
        ("h_0", (3, B, H), "one or two directions"),
    ],
)
def test_layer(name: str, shape: tuple[int, ...], message: str) -> None:
    packed = prepare(
        {"weight_ih": np.zeros((4 * H, I), np.float32), "weight_hh": np.zeros((4 * H, H), np.float32)}
    )
    shapes = {
        "x": (2, B, I),
        "prepared": (1, *packed.shape),
        "h_0": (1, B, H),
        "c_0": (1, B, H),
        "valid": (0,),
    }
    results = [jax.ShapeDtypeStruct((n, B, H), jnp.float32) for n in (2, 1, 1)]
    call: Any = jax.ffi.ffi_call("jaxlstm_layer", results)

    def run(shapes: Mapping[str, tuple]) -> Any:
        operands = [np.zeros(shape, np.float32) for shape in shapes.values()]
        attributes = {"threads": np.int64(0), "reverse": False, "cell": np.int64(0)}
        return jax.block_until_ready(call(*operands, **attributes))

    run(shapes)
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        run({**shapes, name: shape})
