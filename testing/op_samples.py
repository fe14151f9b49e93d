"""PyTorch's own samples of arguments for its operators (``op_db``), run by torch and as a program."""

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import jax
import numpy as np
import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_utils import SEED
from torch.utils import _pytree as pytree

from testing.graphs import program_of_function, to_numpy

_Function = Callable[..., tuple[torch.Tensor, ...]]

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
    combinations cholesky cholesky_inverse cholesky_solve unsafe_chunk sum_to_size resolve_neg
    expand_copy diagonal_copy alias_copy i0 gradient isin kthvalue ldexp matrix_exp quantile nanquantile
    _softmax_backward_data nn.functional.linear_cross_entropy native_batch_norm
    nn.functional.upsample_bilinear nn.functional.soft_margin_loss nn.functional.upsample_nearest
    nn.functional.margin_ranking_loss nn.functional.multi_margin_loss
    nn.functional.multilabel_margin_loss nn.functional.multilabel_soft_margin_loss
    max_pool2d_with_indices_backward nn.functional.max_unpool1d.grad nn.functional.max_unpool2d.grad
    nn.functional.max_unpool3d.grad nn.functional.triplet_margin_loss
    nn.functional.triplet_margin_with_distance_loss nextafter topk mode
    mvlgamma.mvlgamma_p_1 mvlgamma.mvlgamma_p_3 mvlgamma.mvlgamma_p_5 narrow_copy view_copy permute_copy
    qr unsafe_split split_with_sizes_copy signbit triangular_solve isposinf isneginf isreal pinverse
    _unsafe_masked_index _unsafe_masked_index_put_accumulate sort _chunk_cat unbind_copy unfold_copy
    msort renorm squeeze_copy trapz trapezoid cumulative_trapezoid unsqueeze_copy transpose_copy H
    logdet norm.nuc t_copy native_dropout_backward argwhere nn.functional.ctc_loss
    nn.functional.cosine_embedding_loss nn.functional.hinge_embedding_loss
    nn.functional.poisson_nll_loss fft.hfft fft.hfft2 fft.hfftn fft.ihfft fft.ihfft2 fft.ihfftn
    linalg.det linalg.diagonal linalg.cholesky linalg.cholesky_ex linalg.cond linalg.eigvalsh
    linalg.matrix_power linalg.multi_dot linalg.qr linalg.slogdet linalg.vander linalg.inv linalg.inv_ex
    linalg.solve linalg.solve_ex linalg.solve_triangular linalg.pinv linalg.pinv.singular
    linalg.pinv.hermitian linalg.svdvals linalg.tensorinv linalg.tensorsolve signal.windows.kaiser
    special.i0e special.i1 special.i1e special.ndtr special.xlog1py special.entr special.ndtri
    special.log_ndtr masked.cumprod masked.median masked.var masked.std masked.normalize
    masked.logaddexp histc
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
NEED_FLOAT64 = ("double", "cdouble", "softmax.with_dtype", "log_softmax.with_dtype")


@cache
def op_infos() -> dict[str, Any]:
    """Return every OpInfo by its name, with its variant ("div.floor_rounding")."""
    return {op.name + f".{op.variant_test_name}".rstrip("."): op for op in op_db}


def samples(
    name: str, dtype: torch.dtype, most: int, synonym: Callable[..., Any] | None = None
) -> Iterator[tuple[_Function, list[torch.Tensor]]]:
    """Yield at most ``most`` samples of an operator, spread evenly: (function of its tensors, tensors).

    The function calls the operator, or ``synonym`` in its place.
    """
    info = op_infos()[name]
    differentiable = (dtype.is_floating_point or dtype.is_complex) and info.supports_autograd
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _seed()
        # ``sample_inputs`` gives the same, and inspects the source of all callers twice.
        for sample in info.sample_inputs_func(info, "cpu", dtype, differentiable):
            found.append(sample)
            _seed()
    for index in sorted({round(i) for i in np.linspace(0, len(found) - 1, most)}):
        sample = found[index]
        leaves, structure = pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
        yield (
            _function(synonym or info, leaves, structure),
            [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)],
        )


def _seed() -> None:
    for seed in (torch.default_generator.manual_seed, random.seed, np.random.seed):
        seed(SEED)


def has_gradient(name: str) -> bool:
    """Return True if an operator is differentiable in torch, and its gradient there exact."""
    # torch ignores the gradients of the statistics of native norms, and multiplies by a sixth in float32
    # in the gradient of hardsigmoid.
    # Exponentials in the gradient of logcumsumexp round numbers of 10,000, and the series in the gradient of
    # digamma ends at 1e-10. torch gives a gradient to the triangle that the solvers of Cholesky do not read,
    # none to nextafter, and one that is not symmetric to a Hermitian pseudoinverse. The CTC loss rounds
    # logarithms of 300.
    statistics = ("native_layer_norm", "_native_batch_norm_legit")
    differs = (*statistics, "nn.functional.hardsigmoid", "logcumsumexp", "digamma", "cholesky_solve")
    differs += ("cholesky_inverse", "nextafter", "nn.functional.ctc_loss", "linalg.pinv.hermitian")
    return op_infos()[name].supports_autograd and name not in differs


def _function(op: Callable[..., Any], leaves: Sequence[Any], structure: Any) -> _Function:
    def function(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        remaining = iter(tensors)
        filled = [next(remaining) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        first, args, kwargs = pytree.tree_unflatten(filled, structure)
        return tuple(pytree.tree_leaves(op(first, *args, **kwargs)))

    return function


def require_equal_results(function: _Function, tensors: Sequence[torch.Tensor], *, jit: bool = False) -> None:
    """Assert that a function and its program give equal results for tensors."""
    copies = [tensor.detach().clone() for tensor in tensors]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = function(*(tensor.clone() for tensor in copies))
        program = program_of_function(function, [tensor.clone() for tensor in copies])
    arrays = [to_numpy(tensor) for tensor in copies]
    results = (jax.jit(program) if jit else program)({}, *arrays)
    assert len(results) == len(expected)
    for result, wanted in zip(results, expected, strict=True):
        require_close(result, to_numpy(wanted))


def require_equal_gradients(function: _Function, tensors: Sequence[torch.Tensor]) -> None:
    """Assert that a function and its program have equal gradients for random cotangents."""
    copies = [tensor.detach().clone() for tensor in tensors]
    leaves = [copy.clone().requires_grad_(t.requires_grad) for copy, t in zip(copies, tensors, strict=True)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = function(*leaves)
        program = program_of_function(function, copies)
    arrays = list(map(to_numpy, copies))
    inputs = {place: leaf for place, leaf in enumerate(leaves) if leaf.requires_grad}
    outputs = {place: result for place, result in enumerate(results) if result.requires_grad}
    cotangents = {place: torch.randn_like(result) for place, result in outputs.items()}
    expected = torch.autograd.grad(
        list(outputs.values()), list(inputs.values()), list(cotangents.values()), allow_unused=True
    )

    def differentiable(given: dict[int, Any]) -> dict[int, Any]:
        found = program({}, *(given.get(place, array) for place, array in enumerate(arrays)))
        return {place: found[place] for place in outputs}

    def gradients(given: dict[int, Any], cotangents: dict[int, Any]) -> dict[int, Any]:
        return jax.vjp(differentiable, given)[1](cotangents)[0]

    # A mask as an index works outside of jit only.
    has_mask = any(tensor.dtype == torch.bool for tensor in tensors)
    run = gradients if has_mask else jax.jit(gradients)
    # The gradient by a complex number is the conjugate of torch's.
    seeds = {place: np.conj(to_numpy(cotangent)) for place, cotangent in cotangents.items()}
    actual = run({place: arrays[place] for place in inputs}, seeds)
    for place, gradient in zip(inputs, expected, strict=True):
        if gradient is not None:
            require_close(jax.numpy.conj(actual[place]), to_numpy(gradient))


def require_close(result: Any, expected: np.ndarray) -> None:
    """Assert equal shapes, dtypes and integers, and floats that differ by rounding."""
    assert result.shape == expected.shape
    if jax.config.read("jax_enable_x64"):
        assert result.dtype == expected.dtype
    if expected.dtype.kind in "biu":
        np.testing.assert_array_equal(result, expected)
        return
    epsilon = float(jax.numpy.finfo(result.dtype).eps)
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    actual, expected = np.asarray(result, wide), expected.astype(wide)
    # Sums of products cancel, so an error is relative to the largest element.
    scale = max(1.0, float(np.abs(expected[np.isfinite(expected)]).max(initial=0)))
    np.testing.assert_allclose(actual, expected, rtol=100 * epsilon, atol=100 * epsilon * scale)
