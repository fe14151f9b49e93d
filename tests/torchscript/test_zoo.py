"""Scripts and traces of the zoo's models, as far as torch makes them: TorchScript's values and gradients."""

import io
from typing import Any

import pytest
import torch
from torch.jit._fuser import optimized_execution
from torch.jit._trace import TracingCheckError
from torch.jit.frontend import FrontendError
from torch.utils._pytree import tree_leaves

import jaxlstm
from testing.gradients import assert_close, require_equal
from testing.graphs import to_numpy
from testing.zoo import ZOO

pytestmark = pytest.mark.filterwarnings("ignore")
FAST = ("loops/unbound", "packed/plain", "sound/voice detector", "statements/averaged")
REFUSED = {"script regions/autocast": "`with` of a ScriptObject"}
"""Archives that are refused -> words of the error."""
OTHERS = {"trace loops/signed_zero": "TorchScript takes 0.0 and -0.0 for one constant"}
"""Archives of which TorchScript computes other values than the model that was traced."""


REFUSALS = (
    *(RuntimeError, TypeError, AttributeError, ValueError, LookupError, OSError, SyntaxError),
    *(torch.jit.Error, FrontendError, TracingCheckError),
)
"""The errors of torch for models that it does not script or trace."""


def cells(*fast: str) -> list[Any]:
    names = [(way, name) for name in ZOO for way in ("script", "trace")]
    marks = {name: [] if name in fast else [pytest.mark.slow] for name in ZOO}
    return [pytest.param(way, name, marks=marks[name], id=f"{way} {name}") for way, name in names]


def saved(way: str, name: str) -> bytes:
    """Return the archive of a specimen; skip the test with the reason if torch makes none."""
    specimen, buffer = ZOO[name], io.BytesIO()
    module, args = specimen.build(), specimen.arguments(specimen.example)
    try:
        make = (
            torch.jit.script
            if way == "script"
            else lambda module: torch.jit.trace(module, args, check_trace=False)
        )
        script = make(module)
        torch.jit.save(script, buffer)
        torch.jit.load(io.BytesIO(buffer.getvalue()))(*args)
    except REFUSALS as error:
        pytest.skip(f"torch makes no archive: {str(error).strip().splitlines()[0]}")
    return buffer.getvalue()


@pytest.mark.parametrize(("way", "name"), cells(*FAST))
def test_values_in_torch(way: str, name: str) -> None:
    raw, specimen, label = saved(way, name), ZOO[name], f"{way} {name}"
    for sizes in (specimen.example, *specimen.others):
        script = torch.jit.load(io.BytesIO(raw))
        module: Any = jaxlstm.load_torchscript(script)
        args, same_args = specimen.arguments(sizes), specimen.arguments(sizes)
        try:
            expected = tree_leaves(script(*args))
        except RuntimeError:  # A trace may hold the sizes of its example.
            continue
        if label in REFUSED:
            with pytest.raises(jaxlstm.CheckpointError, match=REFUSED[label]):
                module(*same_args)
            return
        for ours, theirs in zip(tree_leaves(module(*same_args)), expected, strict=True):
            if label not in OTHERS:
                torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6, equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize(("way", "name"), cells(*ZOO))
def test_values_and_gradients_in_jax(way: str, name: str) -> None:
    raw, specimen = saved(way, name), ZOO[name]
    if f"{way} {name}" in REFUSED | OTHERS or name in ("statements/averaged", "statements/frozen"):
        pytest.skip("compared in torch only")
    script: Any = torch.jit.load(io.BytesIO(raw)).eval()
    example = specimen.arguments(specimen.example)
    program = jaxlstm.from_module(script, tuple(x.detach() if torch.is_tensor(x) else x for x in example))
    for sizes in specimen.others if way == "script" and specimen.free else (specimen.example,):
        args = specimen.arguments(sizes)
        if specimen.gradients and specimen.jit:
            # TorchScript's own derivative of abs does not take complex numbers.
            with optimized_execution(name != "sound/speech enhancer"):
                require_equal(program, script, *args, atol=2 * specimen.atol)
        else:
            results = program(program.params, *map(to_numpy, args))
            assert_close(results, script(*args), 2 * specimen.atol)
