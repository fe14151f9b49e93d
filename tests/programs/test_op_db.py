"""Operators on PyTorch's own samples of arguments: values, dtypes and gradients equal torch's."""

from collections.abc import Callable
from functools import partial

import jax
import pytest
import torch

from jaxlstm.programs.errors import ProgramError
from testing.op_samples import has_gradient, op_infos, require_equal_gradients, require_equal_results, samples

# The names of op_db whose samples call registered operators, except random and uninitialized tensors.
NAMES = """
    T __getitem__ __radd__ __rdiv__ __rmatmul__ __rmod__ __rmul__ __rpow__ __rsub__ abs acos acosh
    _native_batch_norm_legit add
    addbmm addcdiv addcmul addmm addmm.decomposed addmv addr all amax amin aminmax angle any arange argmax
    argmin argsort asin asinh atan atan2 atanh atleast_1d atleast_2d atleast_3d baddbmm bfloat16
    block_diag bmm bmm.triton_optimized bool broadcast_tensors broadcast_to bucketize byte cat cdist ceil
    cfloat char chunk clamp clamp_max clamp_min clone column_stack complex conj conj_physical
    constant_pad_nd contiguous copysign cos cosh count_nonzero cross cummax cummin cumprod cumsum
    deg2rad digamma
    diag diag_embed diagflat diagonal diagonal_scatter diff dist div.floor_rounding div.no_rounding_mode
    div.trunc_rounding dot double dsplit dstack einsum eq erf erfc erfinv exp exp2 expand expand_as
    expm1 eye
    fft.fft fft.fft2 fft.fftn fft.fftshift fft.ifft fft.ifft2 fft.ifftn fft.ifftshift fft.irfft fft.irfft2
    fft.irfftn fft.rfft fft.rfft2 fft.rfftn fill flatten flip fliplr flipud float floor floor_divide fmax fmin
    fmod frac full full_like gather ge grid_sampler_2d grid_sampler_3d gt half heaviside hsplit hstack
    hypot index_add index_copy index_fill index_put index_select inner int isclose isfinite isinf isnan
    kron le lerp lgamma linalg.cross linalg.matrix_norm linalg.norm linalg.norm.subgradients_at_zero
    linalg.vecdot
    linalg.vector_norm linspace log log10 log1p log2 log_softmax log_softmax.with_dtype logaddexp
    logaddexp2 logcumsumexp logical_and logical_not logical_or logical_xor logit logsumexp long lt mH mT
    masked.amax masked.amin masked.argmax masked.argmin masked.cumsum masked.log_softmax masked.logsumexp
    masked.mean masked.norm masked.prod masked.softmax masked.softmin masked.sum masked_fill
    masked_scatter masked_select matmul max.binary max.reduction_no_dim max.reduction_with_dim maximum
    mean median nanmedian
    cartesian_prod meshgrid.list_of_tensors meshgrid.variadic_tensors min.binary min.reduction_no_dim
    min.reduction_with_dim minimum mm movedim mul mv nan_to_num nanmean nansum narrow native_group_norm
    native_layer_norm ne neg new_full new_ones new_zeros nonzero nn.functional.adaptive_avg_pool1d
    nn.functional.adaptive_avg_pool2d nn.functional.adaptive_avg_pool3d nn.functional.adaptive_max_pool1d
    nn.functional.adaptive_max_pool2d nn.functional.adaptive_max_pool3d nn.functional.avg_pool1d
    nn.functional.avg_pool2d nn.functional.avg_pool3d nn.functional.batch_norm nn.functional.bilinear
    nn.functional.binary_cross_entropy nn.functional.binary_cross_entropy_with_logits nn.functional.celu
    nn.functional.channel_shuffle nn.functional.conv1d nn.functional.conv2d nn.functional.conv3d
    nn.functional.conv_transpose1d nn.functional.conv_transpose2d nn.functional.conv_transpose3d
    nn.functional.cosine_similarity nn.functional.cross_entropy nn.functional.elu nn.functional.embedding
    nn.functional.embedding_bag nn.functional.feature_alpha_dropout.without_train nn.functional.gelu
    nn.functional.glu nn.functional.grid_sample nn.functional.group_norm nn.functional.hardshrink
    nn.functional.hardsigmoid nn.functional.hardswish nn.functional.hardtanh nn.functional.huber_loss
    nn.functional.instance_norm nn.functional.interpolate.area nn.functional.interpolate.bicubic
    nn.functional.interpolate.bilinear nn.functional.interpolate.linear nn.functional.interpolate.nearest
    nn.functional.interpolate.nearest-exact nn.functional.interpolate.trilinear nn.functional.kl_div
    nn.functional.l1_loss nn.functional.layer_norm nn.functional.leaky_relu nn.functional.linear
    nn.functional.local_response_norm nn.functional.logsigmoid nn.functional.max_pool1d
    nn.functional.max_pool2d nn.functional.max_pool3d nn.functional.max_unpool1d nn.functional.max_unpool2d
    nn.functional.max_unpool3d nn.functional.mish nn.functional.mse_loss
    nn.functional.nll_loss nn.functional.normalize nn.functional.pad.circular nn.functional.pad.constant
    nn.functional.pad.reflect nn.functional.pad.replicate nn.functional.pad.replicate_negative
    nn.functional.pairwise_distance nn.functional.pixel_shuffle nn.functional.pixel_unshuffle
    nn.functional.prelu nn.functional.relu nn.functional.relu6 nn.functional.rms_norm nn.functional.rrelu
    nn.functional.scaled_dot_product_attention nn.functional.selu nn.functional.silu
    nn.functional.smooth_l1_loss nn.functional.softmin nn.functional.softplus nn.functional.softshrink
    nn.functional.softsign nn.functional.tanhshrink nn.functional.threshold nn.functional.unfold norm
    norm.fro norm.inf ones ones_like outer permute polar positive pow prod put rad2deg ravel real
    reciprocal remainder repeat repeat_interleave reshape reshape_as resolve_conj roll rot90 round
    round.decimals_0 round.decimals_3 round.decimals_neg_3 rsqrt rsub scalar_tensor scatter scatter_add
    scatter_reduce.amax scatter_reduce.amin scatter_reduce.mean scatter_reduce.prod scatter_reduce.sum
    searchsorted select select_scatter sgn short sigmoid sign signal.windows.bartlett
    signal.windows.blackman signal.windows.cosine signal.windows.exponential signal.windows.gaussian
    signal.windows.general_cosine signal.windows.general_hamming signal.windows.hamming
    signal.windows.hann signal.windows.nuttall sin sinc sinh slice slice_scatter softmax split
    split.list_args split_with_sizes sqrt square squeeze squeeze.multiple stack std std.unbiased std_mean
    std_mean.unbiased stft sub sum t take take_along_dim tan tanh tensor_split tensordot tile trace
    transpose tril triu true_divide trunc unbind unflatten unfold unique unique_consecutive unsqueeze var
    var.unbiased var_mean var_mean.unbiased vdot view view_as view_as_complex vsplit vstack where xlogy
    zero_
    zeros zeros_like
""".split()  # noqa: SIM905
# Operators to run with integers, bools and half precision, too.
OTHER_DTYPES = """
    abs add bincount clamp div.floor_rounding div.no_rounding_mode div.trunc_rounding eq floor_divide fmod
    ge mul ne neg pow remainder rsub sub sum cumsum argmax max.binary where masked_fill cat arange mean exp
    sigmoid sqrt bitwise_not bitwise_and logical_not copysign count_nonzero cummax cumprod deg2rad diff fmax
    hypot index_add linalg.norm nan_to_num nansum nn.functional.cross_entropy
    nn.functional.interpolate.bicubic nn.functional.mse_loss scatter_reduce.amax scatter_reduce.mean
    searchsorted sinc trace xlogy bitwise_left_shift bitwise_right_shift
""".split()  # noqa: SIM905
# Operators to run with complex numbers, too.
COMPLEX = """
    abs add angle block_diag cat conj conj_physical diagflat div.no_rounding_mode exp fft.fft fft.ifft
    fft.irfft imag istft masked_fill matmul mean mul neg nn.functional.unfold pow real reciprocal
    resolve_conj sgn sqrt square stft sub sum view_as_real where
""".split()  # noqa: SIM905
NEED_FLOAT64 = ("double", "cdouble", "softmax.with_dtype", "log_softmax.with_dtype")
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
    "name", [name for name in NAMES[::5] if name not in (*NEED_FLOAT64, *PARTLY_REFUSED)]
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
