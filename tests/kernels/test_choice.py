"""Selection of a backend, errors of unavailable backends, and the native kernel in separate processes."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxlstm import LSTMConfig, init_params, kernels, lstm, param_shapes
from jaxlstm.kernels.cpu import library
from testing.problems import needs_native
from testing.processes import run_python

ROOT = Path(__file__).parents[2]
CONFIG = LSTMConfig(3, 4)


def jaxpr(backend: str, dtype: jnp.dtype = jnp.float32) -> str:
    params = init_params(jax.random.key(0), CONFIG, dtype=dtype)
    run = lambda p, x: lstm(p, x, config=CONFIG, backend=backend)  # noqa: E731
    return str(jax.make_jaxpr(run)(params, jnp.zeros((2, 1, 3), dtype)))


@needs_native
def test_auto_selects_the_kernel_by_dtype() -> None:
    assert "lstm_forward" in jaxpr("auto")
    assert "lstm_native_forward" in jaxpr("native")
    assert "lstm_forward" not in jaxpr("scan")
    assert "lstm_forward" in jaxpr("auto", jnp.bfloat16)
    known = ("amx_float16", "amx", "avx512_bf16", "avx512", "avx2", "baseline")
    assert kernels.info()["instruction_set"] in known


@needs_native
@pytest.mark.parametrize(
    ("config", "time", "batch", "selected"),
    [
        (LSTMConfig(384, 128), 1, 1, True),  # matrices of SMALL_WEIGHTS elements
        (LSTMConfig(385, 128), 7, 9, False),
        (LSTMConfig(385, 128), 8, 8, True),
        (LSTMConfig(385, 128), 1, 64, True),
        (LSTMConfig(448, 128, proj_size=64), 1, 1, True),
        (LSTMConfig(449, 128, proj_size=64), 1, 1, False),
    ],
)
def test_auto_packs_large_weights_only_if_it_pays(
    config: LSTMConfig, time: int, batch: int, selected: bool
) -> None:
    shapes = {**param_shapes(config), "x": (time, batch, config.input_size)}
    arrays = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    x = arrays.pop("x")
    traced = jax.make_jaxpr(lambda p, x: lstm(p, x, config=config))(arrays, x)
    assert ("lstm_forward" in str(traced)) == selected
    assert kernels.select_recurrence("native", weights=10**9, rows=1) is not kernels.PLAIN


@needs_native
def test_environment_turns_amx_off() -> None:
    script = "from jaxlstm import kernels\nprint(kernels.info()['instruction_set'])"
    instruction_set = kernels.info()["instruction_set"]
    expected = "avx512_bf16" if instruction_set.startswith("amx") else instruction_set
    assert run_python("-c", script, JAXLSTM_AMX="0").strip() == expected


@needs_native
def test_jax_without_a_cpu_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX_PLATFORMS=cuda has this effect."""

    def devices(platform: str) -> list:
        raise RuntimeError(f"Unknown backend {platform}. Available backends are ['cuda']")

    monkeypatch.setattr(library, "_loaded", library._loaded.__wrapped__)
    monkeypatch.setattr(jax, "devices", devices)
    assert_unavailable("JAX has no CPU device")


@needs_native
def test_library_of_other_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_loaded", library._loaded.__wrapped__)
    built = library.INTERFACE
    monkeypatch.setattr(library, "INTERFACE", built + 1)
    assert_unavailable(f"built from other sources (interface {built}, not {built + 1})")


@pytest.mark.parametrize("value", ["0", "0 ", "OFF", "False", "no"])
def test_environment_turns_the_kernel_off(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Surrounding blanks are ignored."""
    monkeypatch.setenv("JAXLSTM_NATIVE", value)
    assert_unavailable("turned off by the environment variable JAXLSTM_NATIVE")


def assert_unavailable(reason: str) -> None:
    """The reason is reported, "auto" is the plain scan, and "native" is an error."""
    assert kernels.info()["reason"].startswith(reason)
    assert not kernels.info()["native"]
    assert "lstm_forward" not in jaxpr("auto")
    with pytest.raises(RuntimeError, match=re.escape(f"backend='native' is unavailable: {reason}")):
        jaxpr("native")


def test_build_without_a_compiler(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", reason="Python has no setuptools from 3.12 on")
    for name in ("setup.py", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    build = [sys.executable, "setup.py", "build_ext", "--build-lib", "built"]
    environment = {**os.environ, "CC": "no-such-compiler", "CXX": "no-such-compiler"}
    done = subprocess.run(build, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("_native*.so"))
    assert "no-such-compiler" in done.stderr


@needs_native
def test_concurrent_calls() -> None:
    """Calls do not deadlock, and give the same bits as a single call because scratch is not shared."""
    assert run_python("-m", "testing.process_child", "python_threads", "full_pool") == "done\ndone\n"


@needs_native
@pytest.mark.skipif(sys.platform != "linux", reason="moves threads to one core, as only Linux can")
def test_threads_on_one_core_do_not_spin() -> None:
    """With a spin at every step, two threads took a hundred times the processor time of one."""
    # XLA needs a second thread, which becomes the helper.
    one, two = map(float, run_python("-m", "testing.process_child", "one_core", NPROC="2").split())
    assert two < 10 * one


CASES = ["sharded_batch", "same_bits", "shard_map"]
MORE_CASES = ["plain_scan", "uneven_batch", "float64", "export"]


@needs_native
@pytest.mark.parametrize(
    "cases",
    [CASES, pytest.param(MORE_CASES, marks=pytest.mark.slow), ["jax_without_the_private_name"]],
    ids=["most", "more", "private name"],
)
def test_eight_devices(cases: list[str]) -> None:
    """See the functions of ``testing/eight_devices.py``: kernel calls and communication."""
    printed = run_python("-m", "testing.eight_devices", *cases, devices=8, PYTHONWARNINGS="error")
    assert printed.split() == cases
