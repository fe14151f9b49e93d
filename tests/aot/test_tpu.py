"""The plain scan and the TPU kernels, compiled for v5e and v6e: memory, kernel calls and communication."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxlstm import LSTMConfig
from jaxlstm.inference import shard
from testing.aot.hlo import Hlo
from testing.aot.programs import (
    FORMS,
    Program,
    compile_program,
    compile_to_hlo,
    compiled,
    each_chip,
    mesh,
    place,
)

on_tpus = each_chip("tpu")


@on_tpus
def test_the_plain_scan_keeps_recurrent_weights_in_vmem(chip: str) -> None:
    """The loop carries the weights in S(1), which is VMEM."""
    program = FORMS[0].but(config=LSTMConfig(512, 512), batch=32, time=256)
    (loop,) = compiled(program, chip).loops
    weights = [shape for shape in loop.line.split(") while(")[0].split(" ") if "[2048,512]" in shape]
    assert len(weights) == 1
    assert "S(1)" in weights[0]


LARGE = Program("large", LSTMConfig(512, 512), time=1024, batch=32)


@on_tpus
@pytest.mark.parametrize("precision", ["highest", "default"])
def test_the_kernel_stores_no_gates(precision: str, chip: str) -> None:
    """The plain scan stores the gates of all steps in HBM, and the kernel none of them."""
    program = LARGE.but(precision=precision)
    gates = 4 * program.time * program.batch * 4 * program.config.hidden_size
    kernel, scan = (
        compile_program(program.but(backend=backend), chip).memory_analysis().temp_size_in_bytes
        for backend in ("pallas", "scan")
    )
    assert scan >= gates
    assert kernel < gates / 8


@on_tpus
@pytest.mark.parametrize(
    "program",
    [
        LARGE.but(time=13, batch=300, ragged=True),
        LARGE.but(time=1, batch=1),
        LARGE.but(time=50, batch=3, config=LSTMConfig(1, 1)),
        LARGE.but(time=7, batch=129, config=LSTMConfig(300, 1000), dtype="bfloat16"),
        LARGE.but(time=64, batch=8, config=LSTMConfig(1024, 1024)),
    ],
    ids=lambda p: f"T{p.time}-B{p.batch}-H{p.config.hidden_size}",
)
def test_any_size_compiles(program: Program, chip: str) -> None:
    text = compiled(program.but(backend="pallas"), chip).text
    assert text.count('custom_call_target="tpu_custom_call"') == 1


@on_tpus
def test_weights_beyond_vmem_run_on_the_plain_scan(chip: str) -> None:
    program = LARGE.but(config=LSTMConfig(2048, 2048), backend="pallas", time=8)
    hlo = compiled(program, chip)
    assert "tpu_custom_call" not in hlo.text
    assert len(hlo.loops) == 1


PLAIN = FORMS[0]


def sharded_batch(program: Program, chip: str) -> Hlo:
    """Compile a program with the batch split over the chips and the weights on each chip."""
    four = mesh(chip, data=4)
    everywhere, batch = NamedSharding(four, P()), NamedSharding(four, P(None, "data"))
    params, inputs, state, lengths = program.arguments()
    rows = None if lengths is None else NamedSharding(four, P("data"))
    shardings: Any = (dict.fromkeys(params, everywhere), batch, type(state)(batch, batch), rows)
    return compile_to_hlo(program.function(), place((params, inputs, state, lengths), shardings))


FORWARD = [PLAIN, FORMS[1], FORMS[2].but(dtype="bfloat16"), FORMS[3]]


@on_tpus
@pytest.mark.parametrize("program", [form.but(batch=64) for form in FORWARD], ids=str)
def test_the_forward_pass_sends_nothing(program: Program, chip: str) -> None:
    assert sharded_batch(program, chip).collectives() == []


@on_tpus
@pytest.mark.parametrize("form", [PLAIN, FORMS[1]], ids=str)
def test_the_backward_pass_sends_gradients_of_weights(form: Program, chip: str) -> None:
    hlo = sharded_batch(form.but(batch=64, gradient=True), chip)
    assert set(hlo.collectives()) == {("all-reduce", False)}  # outside the loop
    (reduction,) = [i.line for i in hlo.instructions if i.op == "all-reduce"]
    shapes = re.findall(r"f32\[[\d,]+\]", reduction.split(" all-reduce(")[0])
    # dW_ih, dW_hh, and the gradient that both biases share
    assert sorted(shapes) == ["f32[512,128]", "f32[512,128]", "f32[512]"]


@on_tpus
def test_the_kernel_in_shard_map(chip: str) -> None:
    """Each chip runs the kernel on its own part of the batch."""
    four, program = mesh(chip, data=4), PLAIN.but(batch=64, backend="pallas")
    params, inputs, state, _ = program.arguments()
    rows = P(None, "data")
    run = program.function()
    local = jax.shard_map(
        lambda p, x, s: run(p, x, s, None),
        mesh=four,
        in_specs=(P(), rows, rows),
        out_specs=rows,
        check_vma=False,
    )
    everywhere, batch = NamedSharding(four, P()), NamedSharding(four, rows)
    shardings: Any = (dict.fromkeys(params, everywhere), batch, type(state)(batch, batch))
    hlo = compile_to_hlo(local, place((params, inputs, state), shardings))
    assert hlo.text.count('custom_call_target="tpu_custom_call"') == 1
    assert hlo.collectives() == []


@on_tpus
@pytest.mark.parametrize("axes", [{"hidden": 4}, {"data": 2, "hidden": 2}], ids=str)
@pytest.mark.parametrize("layers", [1, 2])
def test_units_split_over_chips_gather_h_once_per_step(layers: int, axes: dict[str, int], chip: str) -> None:
    config = LSTMConfig(128, 512, num_layers=layers)
    lstm = shard(config, mesh(chip, **axes))
    params, inputs, _, _ = PLAIN.but(config=config, batch=64).arguments()
    params = {name: _by_gate(config, leaf) for name, leaf in params.items()}
    weights = NamedSharding(lstm.mesh, P(None, "hidden"))
    rows = NamedSharding(lstm.mesh, P(None, "data" if "data" in axes else None))
    hlo = compile_to_hlo(lstm, place((params, inputs), (dict.fromkeys(params, weights), rows)))
    assert hlo.collectives() == [("all-gather", True)] * layers


def _by_gate(config: LSTMConfig, leaf: Any) -> Any:
    """Return the shape that ``Sharded.place`` gives to a parameter."""
    return jax.ShapeDtypeStruct((4, config.hidden_size, *leaf.shape[1:]), jnp.float32)
