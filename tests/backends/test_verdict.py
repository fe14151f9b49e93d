"""The checker on each backend: the layer passes, and wrong ports fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlstm
from jaxlstm import LSTMConfig, cli
from jaxlstm.check import verify
from jaxlstm.check.criteria import accuracy
from jaxlstm.check.reference import torch_lstm
from jaxlstm.check.subjects.port import Port
from testing.each_backend import on_each_backend
from testing.mutants import MUTANTS, NOT_BY_SEMANTICS, WHOLE, config_for, small_cases
from testing.verification import CONFIGS, random_params
from testing.wrong_ports import BUGS, WrongPort

LAYERS = [name for name in CONFIGS if name != "cell"]
SEEN_IN_FLOAT64 = [bugs for bugs in MUTANTS if not NOT_BY_SEMANTICS & set(bugs)]


class WrongPortInJax(WrongPort):
    """A wrong port in JAX, which runs on the default device."""

    xp = jnp

    def tf32(self, a: Any) -> Any:
        bits = 11 if a.dtype == np.float64 else 8  # of the exponent
        return jax.lax.reduce_precision(a, bits, 10)


@on_each_backend("dtype", ["float32", "float64", "float16", "bfloat16"], on_cpu=[])
@pytest.mark.parametrize("name", LAYERS)
def test_the_layer_passes(backend: str, name: str, dtype: str) -> None:
    report = verify(None, random_params(CONFIGS[name]), CONFIGS[name], dtype=dtype)
    assert report.ok, str(report)
    assert report.environment["device"].startswith(f"{backend}:")


@on_each_backend()
def test_the_command(backend: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The report names the device and the precision of both sides."""
    path, config = tmp_path / "small.safetensors", LSTMConfig(3, 5, proj_size=2)
    jaxlstm.save(path, random_params(config), config)
    assert cli.main(["check", str(path), "--backend", backend, "--dtype", "float32", "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert output["ok"]
    for report in output["reports"]:
        assert report["backend"] == backend
        assert report["environment"]["device"].startswith(f"{backend}:")
        assert report["environment"]["jax matmul precision"] == "highest"
        if torch_lstm.is_available():
            assert report["environment"]["torch.backends.cudnn.rnn.fp32_precision"] == "ieee"


@on_each_backend("bugs", [(), *SEEN_IN_FLOAT64], on_cpu=[(), *SEEN_IN_FLOAT64[::20]], ids=" and ".join)
def test_semantics(backend: str, bugs: tuple[str, ...]) -> None:
    """A port without bugs agrees with the oracle in float64, and a port with bugs does not."""
    config = config_for(bugs)
    params, cases = small_cases(config)
    port = Port.of(WrongPortInJax(config, *bugs))
    results = [port.run(params, case, np.float64) for case, _ in cases]
    limit = {"outputs": 1e-9, "h_n": 1e-9, "c_n": 1e-9}
    right = all(
        accuracy.result_semantics(found, truth, limit).ok
        for found, (_, truth) in zip(results, cases, strict=True)
    )
    assert right == (bugs == ())


@on_each_backend("bugs", WHOLE, on_cpu=[], ids=" and ".join)
def test_the_verdict_on_a_wrong_port(backend: str, bugs: tuple[str, ...]) -> None:
    config = config_for(bugs)
    report = verify(
        WrongPortInJax(config, *bugs),
        random_params(config, scale=1.5),
        config,
        gradients=False,
        seconds=60.0,
        against="oracle",
    )
    assert not report.ok
    diagnosis = "\n".join(report.diagnosis)
    assert all((BUGS[bug].cause or "") in diagnosis for bug in bugs)


@on_each_backend("precision", ["tensorfloat32", "bfloat16"], backends=["gpu", "tpu"])
def test_lower_precision_settings_fail(backend: str, precision: str) -> None:
    """The checker distinguishes the faster settings from float32."""
    config = LSTMConfig(64, 128)
    if backend == "gpu" and float(jax.devices("gpu")[0].compute_capability) < 8:
        pytest.skip("a GPU before Ampere has no TF32")
    report = verify(None, random_params(config), config, gradients=False, precision=precision)
    assert not report.ok, str(report)
