"""Random programs of several dtypes, casts and writes: torch's numbers and dtypes, also where they wrap."""

import random
from typing import Any

import jax
import numpy as np
import pytest
import torch
from torch import Tensor

from jaxlstm import from_module
from jaxlstm.programs.errors import ProgramError
from testing.graphs import to_numpy
from testing.random_programs import RandomProgram, one_of
from testing.seeds import seeds
from testing.written import assert_equal, written_program

_DTYPES = ["uint8", "int8", "int16", "int32", "float32", "float16", "bool"]
_EXPRESSIONS = """{a} + {b}; {a} * {b}; {a} & {b}; {a} | {b}; {a} < {b}; {a} - {b}; {a} // {n};
{a} + {n}; {a} * {n}; {a} / {b}; {a} >= {n}; {a} ** 2; -{a}; {a}.abs(); {a}.sum(); {a}.cumsum(0); {a}.amax(0);
{a}[2] + {b}; torch.maximum({a}, {b}); torch.minimum({a}, {b}); torch.fmod({a}, {b});
torch.remainder({a}, {b}); torch.logical_xor({a}, {b}); torch.where({a} > {n}, {a}, {b});
torch.full_like({a}, {p}); {a}.new_zeros(4) + {b}; {a}.mul({b}).sum(dtype={dtype}); {a}.clamp(-3, 9);
torch.cat([{a}, {b}])[:4]; {a}.type_as({b}); {a}.to({dtype}); ({a} * {f}).to({dtype});
({a} * {f}).to({dtype})"""
_WRITES = """{v}.add_({b}); {v}.sub_({b}); {v}.mul_({b}); {v}.copy_({b}); {v}.bitwise_and_({b});
{v} += {b}[3]; {v}.floor_divide_({b}); {v}.remainder_({b}); {v}.add_({n}); {v}.mul_({n}); {v}.fill_({p});
{v}[0] = {b}[1]; {v}.masked_fill_({b} > 1, {p}); {v}[1:3] = {b}[1:3]; {v}.clamp_(max={p});
{v}.copy_({b} * {f}); {v}[{b}.expand(4) > 0] = {p}"""


def _program(chosen: random.Random) -> str:
    """Return the body of ``forward`` of tensors a, b, c and d."""
    names, lines = ["a", "b", "c", "d"], []
    for step in range(chosen.randint(3, 8)):
        fields: dict[str, Any] = {"a": chosen.choice(names), "b": chosen.choice(names)}
        fields |= {"dtype": f"torch.{chosen.choice(_DTYPES)}", "n": chosen.choice((-3, 2, 7, 100))}
        fields |= {"f": chosen.choice((-2.5, 0.75, 300.0)), "p": chosen.choice((0, 3, 100)), "v": f"v{step}"}
        if chosen.random() < 0.4:
            lines += [f"v{step} = {fields['a']}.clone()", one_of(chosen, _WRITES, **fields)]
        else:
            lines.append(f"v{step} = {one_of(chosen, _EXPRESSIONS, **fields)}")
        names.append(f"v{step}")
    return "\n".join(lines)


class _Model(RandomProgram):
    """A program whose lines that torch refuses for these dtypes are left out."""

    def __init__(self, text: str, inputs: list[Tensor]) -> None:
        super().__init__("a, b, c, d")
        kept = dict(zip("abcd", inputs, strict=True))
        for line in text.split("\n"):
            values = {name: value.clone() for name, value in kept.items()}
            try:
                exec(line, {"torch": torch}, values)
            except (RuntimeError, NameError, IndexError):
                continue
            # Beyond 32 bits, JAX has other integers; beyond float16, torch's casts are undefined.
            large = [
                v for v in values.values() if v.dtype != torch.bool and not (v.double().abs() < 2**30).all()
            ]
            if not large and all(value.shape in ((), (4,)) for value in values.values()):
                kept = values
                self.lines.append(line)
        self.define(", ".join(name for name in kept if name not in "abc") + ",")


@pytest.mark.filterwarnings("ignore:from_module. input")
@pytest.mark.parametrize("seed", seeds(fast=3, slow=300))
def test_dtypes(seed: int) -> None:
    chosen, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    dtypes = [getattr(torch, chosen.choice(_DTYPES)) for _ in range(4)]
    inputs = [(torch.randn(4, generator=generator) * 100).to(dtype) for dtype in dtypes]
    model = _Model(_program(chosen), inputs)
    expected = model(*(tensor.clone() for tensor in inputs))
    try:
        program = from_module(model, tuple(inputs))
    except ProgramError as error:
        if error.code != "unsupported-operator":
            raise
        return
    arrays = [tensor.numpy() for tensor in inputs]
    for run in (program, jax.jit(program)):
        for ours, theirs in zip(run(program.params, *arrays), map(to_numpy, expected), strict=True):
            wanted = theirs.dtype if theirs.dtype != np.int64 else np.int32
            assert (ours.dtype, ours.shape) == (wanted, theirs.shape), model.text
            np.testing.assert_allclose(
                ours, theirs, rtol=2e-3 if wanted == np.float16 else 1e-5, err_msg=model.text
            )
    assert_equal(written_program(program), *inputs)
