"""Check an installed jaxlstm, in the interpreter that runs this file. `make release-check` runs it.

``python -P installed_check.py GOLDEN EXAMPLES native|scan``: the path of tests/golden.json, the folder of the
examples, and whether the installation should have the native kernel. Needs only jaxlstm's dependencies.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxlstm


def check(holds: bool, what: str) -> None:
    if not holds:
        raise SystemExit(what)


def torch_draws(seed: int, *shapes: tuple[int, ...], bound: float) -> list[jax.Array]:
    """Return the float32 uniform draws from [-bound, bound) of torch's CPU generator with the given seed."""
    generator = np.random.RandomState(seed)  # the same Mersenne Twister; torch uses 24 bits of each draw
    bits = [generator.randint(0, 2**32, shape, dtype=np.uint32) & 0xFFFFFF for shape in shapes]
    return [jnp.asarray((b / 2**24 * 2 * bound - bound).astype(np.float32)) for b in bits]


def check_golden(golden: dict[str, Any]) -> None:
    """Outputs that a PyTorch notebook printed to four decimals, from torch's seed."""
    config = jaxlstm.LSTMConfig(**golden["constructor"])
    shapes = jaxlstm.param_shapes(config)
    bound = config.hidden_size**-0.5
    draws = torch_draws(golden["torch_manual_seed"], *shapes.values(), bound=bound)
    params = dict(zip(shapes, draws, strict=True))
    outputs, state = jax.jit(partial(jaxlstm.lstm, config=config))(params, jnp.array(golden["input"]))
    for name, actual in {"output": outputs, "h_n": state.h, "c_n": state.c}.items():
        error = float(abs(actual - jnp.array(golden[name])).max())
        check(error < 0.51e-4, f"{name} of golden.json differs by {error:.2g}")


def check_kernel(expected: bool) -> None:
    """The native kernel is there and selected if expected, and agrees with the scan."""
    info = jaxlstm.kernels.info()
    check(info["native"] == expected, f"kernels.info(): {info}")
    check(expected or info["reason"].startswith("not built: no C++ compiler"), f"reason: {info['reason']}")
    config = jaxlstm.LSTMConfig(5, 70, bidirectional=True)
    params = jaxlstm.init_params(jax.random.key(0), config)
    x = jax.random.normal(jax.random.key(1), (9, 6, 5))
    run = jax.jit(
        lambda backend: jaxlstm.lstm(params, x, config=config, backend=backend)[0], static_argnums=0
    )
    selected = "jaxlstm_forward" in run.lower("auto").as_text()
    check(selected == expected, f"backend='auto' selects the kernel: {selected}")
    error = float(abs(run("auto") - run("scan")).max())
    check(error < 1e-6, f"the kernel differs from the scan by {error:.2g}")


def check_demo(examples: Path) -> None:
    """The demo checkpoint and the demo program have the same LSTM, and the program restores a sentence."""
    params, config = jaxlstm.load(examples / "demo.pt", batch_first=True, dropout=0.0)
    program = jaxlstm.load_program(examples / "demo.pt2")
    for name, array in params.items():
        check(bool((array == program.params[f"tagger.lstm.{name}"]).all()), f"demo.pt2: {name}")
    x = jax.random.normal(jax.random.key(2), (2, 7, config.input_size))
    outputs, _ = jax.jit(partial(jaxlstm.lstm, config=config))(params, x)
    check(outputs.shape == (2, 7, 2 * config.hidden_size) and bool(jnp.isfinite(outputs).all()), "demo.pt")
    sys.path.insert(0, str(examples))
    from tag import punctuate  # pyright: ignore[reportMissingImports]

    restored = punctuate("alice opened her eyes and said the queen who is that")
    recorded = (examples / "README.md").read_text(encoding="utf-8")
    check(restored in recorded.splitlines(), f"demo.pt2 restores {restored!r}; examples/README.md differs")


def main(golden: str, examples: str, kernel: str) -> None:
    check(Path(jaxlstm.__file__).is_relative_to(sys.prefix), f"not the installed one: {jaxlstm.__file__}")
    check("torch" not in sys.modules, "torch was imported")
    check_kernel(kernel == "native")
    check_golden(json.loads(Path(golden).read_text(encoding="utf-8"))["time_major"])
    check_demo(Path(examples))
    backend = jaxlstm.kernels.info()["instruction_set"] or "no kernel"
    print(
        f"jaxlstm {jaxlstm.__version__} ({backend}), jax {jax.__version__}, Python {sys.version.split()[0]}"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
