"""Operators on PyTorch's own samples of arguments: values, dtypes and gradients equal torch's."""

from collections.abc import Callable
from functools import partial

import jax
import pytest
import torch

from jaxlstm.programs.errors import ProgramError
from testing.op_samples import (
    NAMES,
    NEED_FLOAT64,
    OTHER_DTYPES,
    has_gradient,
    op_infos,
    require_equal_gradients,
    require_equal_results,
    samples,
)

# Operators to run with complex numbers, too.
COMPLEX = """
    abs add angle block_diag cat conj conj_physical diagflat div.no_rounding_mode exp fft.fft fft.ifft
    fft.irfft imag istft masked_fill matmul mean mul neg nn.functional.unfold pow real reciprocal
    resolve_conj sgn sqrt square stft sub sum view_as_real where
""".split()  # noqa: SIM905
SLOW = pytest.mark.slow
# Some samples of these are in training mode, renormalize a table, or take a size from a tensor.
PARTLY_REFUSED = (
    "_native_batch_norm_legit",
    "narrow",
    "nn.functional.batch_norm",
    "nn.functional.embedding",
    "nn.functional.instance_norm",
    "nn.functional.rrelu",
    "nn.functional.scaled_dot_product_attention",
    "repeat_interleave",
    "tensor_split",
)
MOST = 8  # samples per operator; max_pool1d has 1,152


def run(
    name: str, dtype: torch.dtype, most: int, check: Callable[..., None], synonym: Callable | None = None
) -> int:
    """Check samples of an operator, or of its synonym, and return their number."""
    count = 0
    for function, tensors in samples(name, dtype, most, synonym):
        try:
            check(function, tensors)
        except ProgramError as error:
            if name not in PARTLY_REFUSED or error.code not in ("training-mode", "unsupported-operator"):
                raise
        else:
            count += 1
    return count


@pytest.mark.parametrize(
    "name", [name for name in NAMES[::8] if name not in (*NEED_FLOAT64, *PARTLY_REFUSED)]
)
def test_first_sample(name: str) -> None:
    # Without JAX's 64-bit mode, as most users run. A third of the programs are compiled.
    jit = len(name) % 3 == 0
    assert run(name, torch.float32, 1, partial(require_equal_results, jit=jit)) == 1


@SLOW
@pytest.mark.parametrize("name", NAMES)
def test_samples(name: str) -> None:
    with jax.enable_x64(True):
        assert run(name, torch.float32, MOST, require_equal_results)


@SLOW
@pytest.mark.parametrize("name", [name for name in NAMES if op_infos()[name].aliases])
def test_other_names(name: str) -> None:
    with jax.enable_x64(True):
        for synonym in op_infos()[name].aliases:
            assert run(name, torch.float32, 2, require_equal_results, synonym)


@SLOW
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", OTHER_DTYPES)
def test_samples_of_other_dtypes(name: str, dtype: torch.dtype) -> None:
    if dtype not in op_infos()[name].dtypes:
        pytest.skip(f"torch has no {name} of {dtype}")
    with jax.enable_x64(True):
        assert run(name, dtype, MOST, require_equal_results)


@SLOW
@pytest.mark.parametrize("name", COMPLEX)
def test_complex_samples(name: str) -> None:
    with jax.enable_x64(True):
        assert run(name, torch.complex64, MOST, require_equal_results)
        assert run(name, torch.complex128, 3, require_equal_gradients)


@SLOW
@pytest.mark.parametrize("name", [name for name in NAMES if has_gradient(name)])
def test_gradients(name: str) -> None:
    with jax.enable_x64(True):
        assert run(name, torch.float64, 3, require_equal_gradients)
