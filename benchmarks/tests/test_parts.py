"""The parts of a benchmark: comparison with the oracle, timing, carried state, memory."""

from __future__ import annotations

import platform
from typing import Any

import jax
import numpy as np
import pytest

import jaxlstm
from benchmarks import peers, streams, timing
from benchmarks.parts import PARTS, Settings
from benchmarks.problems import TINY_SIZES, Problem, Size, compare, expected_arrays, make_problem
from testing.processes import run_python

RAGGED = TINY_SIZES["train"][0]


@pytest.mark.parametrize("name", ["inputs", "weight_ih_l0", "bias_hh_l0"])
def test_each_gradient_is_compared(name: str) -> None:
    expected = expected_arrays(make_problem(RAGGED), "train")
    right = {key: value.astype(np.float32) for key, value in expected.items()}
    wrong = right | {name: right[name] * 1.001}
    error, fault = compare((right["inputs"], right), expected, "train")
    assert fault is None
    assert error < 1e-7
    error, fault = compare((wrong["inputs"], wrong), expected, "train")
    assert error == pytest.approx(1e-3, rel=1e-3)
    assert fault is not None
    assert f"the gradient of {name} differs" in fault


@pytest.mark.parametrize("value", [np.nan, 2e-5])
def test_wrong_outputs_are_found(value: float) -> None:
    expected = expected_arrays(make_problem(TINY_SIZES["infer"][0]), "infer")
    outputs = expected["outputs"].copy()
    outputs[-1, -1, -1] += value
    assert compare(outputs, expected, "infer")[1] is not None
    fault = compare(expected["outputs"][:-1], expected, "infer")[1]
    assert fault == "outputs: shape (4, 2, 8), expected (5, 2, 8)"


@pytest.mark.parametrize(("dtype", "bits"), [("float32", None), ("float16", 10), ("bfloat16", 7)], ids=str)
def test_tolerances_fit_the_dtype(dtype: str, bits: int | None) -> None:
    """Weights rounded to the dtype's bits pass; a third of the bits or another gate order fail."""
    problem = make_problem(Size(20, 4, jaxlstm.LSTMConfig(16, 32)))
    expected = expected_arrays(problem, "infer")

    def fault(params: dict[str, Any]) -> str | None:
        rounded = Problem(problem.size, params, problem.inputs, None)
        outputs = expected_arrays(rounded, "infer")["outputs"]
        return compare(outputs, expected, "infer", dtype)[1]

    def rounded(bits: int) -> dict[str, Any]:
        params = problem.params.items()
        return {n: np.asarray(jax.lax.reduce_precision(a, 8, bits)) for n, a in params}

    assert fault(rounded(bits or 23)) is None
    assert fault(rounded((bits or 23) // 3)) is not None
    i, f, g, o = np.split(problem.params["weight_hh_l0"], 4)
    assert fault(problem.params | {"weight_hh_l0": np.concatenate([f, i, g, o])}) is not None


def test_turns_rotate_and_start_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "BURST_SECONDS", 0.0)
    monkeypatch.setattr(timing, "WARM_SECONDS", 0.0)
    now = [0.0]
    called: list[str] = []

    def call(name: str, seconds: float) -> timing.Call:
        def work() -> None:
            called.append(name)
            now[0] += seconds

        return work

    calls = {"a": call("a", 0.002), "b": call("b", 0.005)}
    times = timing.interleaved(calls, 3, clock=lambda: now[0])
    np.testing.assert_allclose(times["a"], [2, 2, 2])
    np.testing.assert_allclose(times["b"], [5, 5, 5])
    assert "".join(called) == "aabb" + "aabb" + "bbaa" + "aabb"  # once warm, once timed
    called.clear()
    timing.interleaved({"a": call("a", 0.002), "c": call("c", 0.3)}, 2, clock=lambda: now[0])
    assert "".join(called) == "aacc" + "aac" + "caa"  # long calls are only timed


@pytest.mark.parametrize("part", [streams.run, streams.sequences])
def test_streams_and_sequences(part: Any) -> None:
    """The parts compare the outputs themselves."""
    names = tuple(n for n in ("torch", "onnxruntime") if not peers.missing(n))
    settings = Settings(1, rounds=2, tiny=True, against=names)
    rows = list(part(settings))
    for row in rows:
        assert all(0 < low <= median <= high for low, median, high in row["values"].values())
    assert rows[0]["values"].keys() > {"jaxlstm", *names}
    assert "jaxlstm one by one" in rows[-1]["values"]


MEMORY = """
import resource, sys
from benchmarks.layer import keep_freed_memory
import numpy as np
if "keep" in sys.argv: keep_freed_memory()
np.ones(1 << 23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(1 << 23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="sets an option of glibc's malloc")
def test_freed_memory_is_kept() -> None:
    """A second array of 64 MiB takes no fresh pages."""
    pages = {option: int(run_python("-c", MEMORY, option)) for option in ("free", "keep")}
    assert pages["keep"] < 10 < pages["free"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["programs", "accuracy"])
def test_other_parts(name: str) -> None:
    part = PARTS[name]
    settings = Settings(1, rounds=1, tiny=True, against=("torch",))
    for row in part.run()(settings):
        assert row["case"]
        assert row.get("values", {"jaxlstm": row.get("columns")})["jaxlstm"]
