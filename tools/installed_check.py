"""Check an installed jaxlstm, in the interpreter that runs this file. `make release-check` runs it.

``python -P installed_check.py CLONE native|scan``: a clone of the repository, and whether the installation
should have the native kernel. Needs only jaxlstm's dependencies.
"""

import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np

import jaxlstm


def check_kernel(is_native: bool) -> None:
    """The native kernel is there and selected if expected, and agrees with the scan."""
    info = jaxlstm.kernels.info()
    assert info["native"] == is_native, info
    assert is_native or info["reason"].startswith("not built: no C++ compiler"), info
    config = jaxlstm.LSTMConfig(5, 70, bidirectional=True)
    params = jaxlstm.init_params(jax.random.key(0), config)
    x = jax.random.normal(jax.random.key(1), (9, 6, 5))

    @partial(jax.jit, static_argnums=0)
    def run(backend: str) -> jax.Array:
        return jaxlstm.lstm(params, x, config=config, backend=backend)[0]

    assert ("jaxlstm_forward" in run.lower("auto").as_text()) == is_native
    np.testing.assert_allclose(run("auto"), run("scan"), rtol=0, atol=1e-6)


def check_demo(examples: Path) -> None:
    """The demo program restores a sentence as in the repository, and demo.pt has the same LSTM."""
    params, _ = jaxlstm.load(examples / "demo.pt", batch_first=True, dropout=0.0)
    program = jaxlstm.load_program(examples / "demo.pt2")
    for name, array in params.items():
        np.testing.assert_array_equal(array, program.params[f"tagger.lstm.{name}"], err_msg=name)
    sys.path.insert(0, str(examples))
    from tag import punctuate  # pyright: ignore[reportMissingImports]

    restored = punctuate("alice opened her eyes and said the queen who is that")
    assert restored == "Alice opened her eyes, and, said the Queen, who is that", restored


def main(clone: str, kernel: str) -> None:
    assert Path(jaxlstm.__file__).is_relative_to(sys.prefix), f"not the installed one: {jaxlstm.__file__}"
    check_kernel(kernel == "native")
    check_demo(Path(clone) / "examples")
    assert "torch" not in sys.modules
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    print(f"ok: jaxlstm {jaxlstm.__version__}, {kernel}, jax {jax.__version__}, Python {version}")


if __name__ == "__main__":
    main(*sys.argv[1:])
