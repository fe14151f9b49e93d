"""Values at which operators differ from the obvious formula, and arguments that they refuse."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import torch
from torch import Tensor, nn

from jaxlstm.programs.errors import ProgramError
from testing.graphs import operator_function, program_of_function, to_numpy
from testing.op_samples import require_equal_gradients, require_equal_results

NAN, INF = float("nan"), float("inf")
NUMBERS = torch.tensor([0.0, -1.0, NAN, 2.0, INF, 2.0, NAN, -INF])
MODES = ("linear", "lower", "higher", "nearest", "midpoint")
INDICES = torch.tensor([1, 1, 0, 3, 1, 3, 3, 0])

Function = Callable[..., tuple[Tensor, ...]]
VALUES: dict[str, tuple[Function, list[Tensor]]] = {
    # Their in-place forms have other overloads than the functional ones.
    "other overloads in place": (
        lambda x: (x.clone().floor_divide_(0.3), x.abs().pow_(x.abs()), x.clone().true_divide_(3)),
        [torch.linspace(-2, 3, 7)],
    ),
    "a number before a tensor": (
        lambda n: (6 & n, torch.bitwise_or(True, n > 1), 5 ^ n, torch.remainder(7, n), 9 % n),
        [torch.arange(1, 6)],
    ),
    "logarithms of numbers that XLA takes for zero": (
        lambda x, mask: (
            (x + 1e-45).log(),
            torch.log(3e-42 + mask),
            (x + 1e-45).log2() + (x + 1e-45).log10(),
            x.clamp(1e-40).log().sum(),
            x.clamp_min(1e-45).log_(),
            (x + 1e-46).log(),
            torch.add(x, 1e-45, alpha=2).log() + torch.clamp(x, 1e-45, 0.5).log(),
        ),
        [torch.tensor([0.5, 1.0, 1e-30, 0.0]), torch.tensor([True, False])],
    ),
    "windows": (
        lambda x: (
            *(torch.hamming_window(9, periodic, dtype=x.dtype) for periodic in (True, False)),
            torch.hamming_window(8, True, 0.6, dtype=x.dtype),
            torch.hamming_window(8, True, 0.6, 0.3, dtype=x.dtype),
            *(torch.blackman_window(n, n == 9, dtype=x.dtype) for n in (9, 8, 1)),
            torch.hann_window(9, False, dtype=x.dtype),
        ),
        [NUMBERS],
    ),
    "an infinite element outside of the weights": (
        lambda x, g: (nn.functional.grid_sample(x, g, align_corners=False),),
        [torch.tensor([[[[INF, INF], [INF, 3]]]]), torch.tensor([[[[9.0, 9.0], [1.0, 1.0]]]])],
    ),
    "triangles": (
        lambda x: (
            torch.tril_indices(3, 4, -1),
            torch.triu_indices(3, 4, 1),
            torch.triu_indices(3, 2, dtype=torch.int32),
        ),
        [NUMBERS],
    ),
    "running extrema, ties and NaN": (lambda x: (*x.cummax(0), *x[3:].cummin(0)), [NUMBERS]),
    "quantiles beside infinity and NaN": (
        lambda x, q: (
            *(torch.quantile(x[3:6], q, interpolation=mode) for mode in MODES),
            *(torch.nanquantile(x[None], 0.4, 1, True, interpolation=mode) for mode in MODES),
            torch.quantile(x, q, 0),
        ),
        [NUMBERS, torch.tensor([0.0, 0.25, 1.0])],
    ),
    "modes and histograms": (
        lambda x, i: (
            *i.mode(0),
            *x[3:6].mode(),
            *x[[4, 4, 3]].mode(),
            x[:2].histc(3),
            x[3:6].abs().histc(4, 0, 3),
            x[1:2].histc(2),
        ),
        [NUMBERS, INDICES],
    ),
    "one triangle is read": (
        lambda x: (
            torch.linalg.cholesky(x),
            torch.linalg.cholesky(x, upper=True),
            torch.linalg.eigvalsh(x),
            torch.linalg.eigvalsh(x, UPLO="U"),
        ),
        [torch.tensor([[4.0, 2.0], [1.0, 3.0]])],
    ),
    "divisors of the smallest integer": (
        lambda i, j: (torch.gcd(i, j), torch.lcm(i, j)),
        [torch.tensor([-(2**31), 0, 2**31 - 1, -4]).int(), torch.tensor([12, -4, 9, 6]).int()],
    ),
    "xlogy": (lambda x: (torch.xlogy(x[:, None], x), torch.xlogy(x, 2), torch.xlogy(0, x)), [NUMBERS]),
    "heaviside": (lambda x: (torch.heaviside(x, torch.tensor(0.25)),), [NUMBERS]),
    "bounds beyond 32 bits": (lambda x: (x.clamp(1, 2**40), x.clamp(max=2**63 - 1)), [INDICES]),
    "clamp": (lambda x: (x.clamp(-1, 2), x.clamp(max=x.flip(0)), x.clamp(2, 1)), [NUMBERS]),
    "negative numbers wrap in uint8": (
        lambda x: (
            x.clip(-3, 200),
            x.clamp(min=-250),
            x.clamp(max=-3),
            x + -3,
            x == -3,
            x.masked_fill(x > 7, -1),
        ),
        [torch.tensor([0, 7, 8, 253], dtype=torch.uint8)],
    ),
    "sorted sequences": (
        lambda x: (torch.bucketize(x, x[[1, 0, 3]]), torch.bucketize(1.5, x[[1, 0, 3]], right=True)),
        [NUMBERS],
    ),
    "ties in adaptive pooling": (
        lambda x: nn.functional.adaptive_max_pool2d(x, (2, 3), return_indices=True),
        [torch.tensor([1.0, 0, 1, 1, 0, 1, 0, 1, 1, 1, 1, 0]).reshape(1, 3, 4)],
    ),
    "logit beyond its bounds": (lambda x: (x.logit(0.1),), [torch.tensor([-2.0, 0.1, 0.5, 0.95])]),
    "mean of integers": (
        lambda x, i: tuple(
            x.scatter_reduce(0, i, 3 * x - 5, "mean", include_self=own) for own in (False, True)
        ),
        [torch.arange(8), INDICES],
    ),
    "a source longer than its index": (lambda x, i: (x.scatter(0, i, x),), [NUMBERS, torch.tensor([3, 1])]),
    "an index from the end": (lambda x, i: (x.index_fill(0, i, 9.0),), [NUMBERS, torch.tensor([-2, 2])]),
    "the last window with ceil_mode": (
        lambda x: tuple(
            nn.functional.avg_pool1d(x[..., :size], kernel, stride, padding, True, counted)
            for size, kernel, stride, padding in ((6, 3, 2, 0), (3, 2, 4, 1), (5, 4, 3, 2))
            for counted in (True, False)
        ),
        [torch.arange(6.0).reshape(1, 1, 6)],
    ),
    "sums of bools": (
        lambda x, i: (x.scatter_add(0, i, ~x), x.index_add(0, i, ~x), x.scatter_reduce(0, i, ~x, "sum")),
        [torch.tensor([True, False, False, True, False]), torch.tensor([0, 1, 1, 3, 0])],
    ),
    "a cross entropy of ignored targets": (
        lambda x: tuple(
            nn.functional.cross_entropy(
                x, torch.tensor([-1, 2, -1, 0]), ignore_index=-1, label_smoothing=0.1, reduction=r
            )
            for r in ("none", "mean", "sum")
        ),
        [torch.arange(12.0).sin().reshape(4, 3)],
    ),
    "certain probabilities": (
        lambda x: (nn.functional.binary_cross_entropy(x, x.flip(0), reduction="none"),),
        [torch.tensor([0.0, 1.0, 1e-45, 0.5, 0.0])],
    ),
    "means without NaN": (lambda x: (x.nanmean(), x[[2, 6]].nanmean(), x[:2].nanmean(0, True)), [NUMBERS]),
    "the angle of real numbers": (lambda x: (x.angle(), x[[0, 3]].long().neg().angle()), [NUMBERS]),
    "no rows": (
        lambda x: (
            torch.cdist(x, x[:, :2]),
            nn.functional.pixel_shuffle(x[..., None], 1),
            x.cummax(1)[1],
            x.diff(),
        ),
        [torch.zeros(2, 0, 4)],
    ),
}


@pytest.mark.parametrize("name", VALUES)
def test_values(name: str) -> None:
    function, tensors = VALUES[name]
    require_equal_results(lambda *args: tuple(function(*args)), tensors, jit=True)


def leaf(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64, requires_grad=True)


POOLS = [((2, 2), (2, 2), 0, 1), ((3, 2), (1, 2), 1, 1), ((2, 3), (1, 1), 1, 2), ((9, 9), (3, 3), 4, 1)]
GRADIENTS: dict[str, tuple[Function, list[Tensor]]] = {
    "a product with zeros": (
        lambda x, s: (
            x.scatter_reduce(0, INDICES, s, "prod"),
            x.scatter_reduce(0, INDICES, s, "prod", include_self=False),
        ),
        [leaf(0, 3, 2, 5), leaf(2, 0, 4, 0, 3, 0, 7, 5)],
    ),
    "equal largest elements": (
        lambda x, s: (x.scatter_reduce(0, INDICES, s, "amax"), *x.aminmax()),
        [leaf(1, 3, 2, 3), leaf(2, 0, 1, 3, 3, 0, 3, 1)],
    ),
    # With few slices, many elements, and dilation: the first of equal elements gets the gradient.
    "equal elements of a pool": (
        lambda x: tuple(torch.max_pool2d(x, *settings) for settings in POOLS),
        [torch.randint(3, (2, 1, 13, 11)).double().requires_grad_()],
    ),
    "distances of 0": (
        lambda x: tuple(torch.cdist(x.reshape(4, 2), x.reshape(4, 2), p) for p in (0.5, 1, 1.5, 2, 3)),
        [leaf(1, 2, 1, 2, 0, 4, -1, 2)],
    ),
    "a vector of zeros": (
        lambda x: (nn.functional.cosine_similarity(x, x.flip(1)), torch.linalg.norm(x, 3, 1), x.norm(1.5, 1)),
        [leaf(0, 0, 1, 2).detach().reshape(2, 2).requires_grad_()],
    ),
    "one of the running sums": (
        lambda x: (x.cumsum(1)[:, 4].square(),),
        [torch.arange(18.0).reshape(2, 9).double().requires_grad_()],
    ),
    "xlogy of 0": (lambda x, y: (torch.xlogy(x, y),), [leaf(0, 0, 2, 0), leaf(-1, 3, 4, 0.5)]),
    "certain probabilities": (
        lambda x, target: (nn.functional.binary_cross_entropy(x, target, reduction="none"),),
        [leaf(0, 1, 1, 0, 1e-30, 0.5), leaf(0, 1, 0.25, 0.75, 0.5, 0)],
    ),
    "the angle of 0": (
        lambda x, y: (torch.view_as_complex(x).angle(), torch.view_as_complex(x).sgn(), y.angle()),
        [torch.tensor([[0.0, 0], [-1, 2], [0, -3]]).double().requires_grad_(), leaf(-2, 0, 2)],
    ),
    "the deviation of equal numbers": (
        lambda x: (x.reshape(2, 2).std(1), *torch.std_mean(x.reshape(2, 2), 0)),
        [leaf(1, 1, 2, 1)],
    ),
    "an infinite beta": (
        lambda x: (nn.functional.smooth_l1_loss(x, x.new_zeros(3), beta=float("inf")),),
        [leaf(-1, 0, 2)],
    ),
    "bounds of clamp": (
        lambda x, y: (x.clamp(0, 2), x.clamp_min(0), x.clamp_max(2), x.clamp(y, y + 1), x.clamp_min(y)),
        [leaf(-1, 0, 1, 2, 3), leaf(0, 0, 0, 1, 1)],
    ),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(name: str) -> None:
    with jax.enable_x64(True):
        require_equal_gradients(*GRADIENTS[name])


def test_an_excluded_element_is_no_tie() -> None:
    """torch 2.13 counts the excluded 0 of x as a largest element and halves the gradient."""
    x, index, source = torch.tensor([0.0]), torch.tensor([0, 0]), torch.tensor([0.0, -1.0])
    program = program_of_function(
        lambda x, i, s: (x.scatter_reduce(0, i, s, "amax", include_self=False),), [x, index, source]
    )
    gradient = jax.grad(lambda s: program({}, x.numpy(), index.numpy(), s)[0].sum())(source.numpy())
    assert gradient.tolist() == [1.0, 0.0]


OUT_OF_RANGE: dict[str, Function] = {
    "index_add": lambda x, i: (x.index_add(0, i, x),),
    "index_fill": lambda x, i: (x.index_fill(0, i, 1.0),),
    "scatter_reduce": lambda x, i: (x.scatter_reduce(0, i, x, "amax"),),
    "embedding bags": lambda x, i: tuple(
        nn.functional.embedding_bag(i, x[:, None], torch.arange(3), mode=m) for m in ("sum", "mean", "max")
    ),
    "cross entropy": lambda x, i: (nn.functional.cross_entropy(x[:, None].expand(3, 3), i),),
}


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_index_out_of_range(name: str) -> None:
    """The error is raised outside of jit; under jit, what is read is NaN, and all after a write."""
    x = torch.tensor([1.0, 2.0, 4.0])
    program = program_of_function(OUT_OF_RANGE[name], [x, torch.tensor([0, 1, 2])])
    beyond = torch.tensor([0, 3, 1]).numpy()
    with pytest.raises(ProgramError, match=r"\[index-range"):
        program({}, x.numpy(), beyond)
    expected = {
        **dict.fromkeys(("index_add", "index_fill", "scatter_reduce"), [NAN] * 3),
        "embedding bags": [[1.0], [NAN], [2.0]],
        "cross entropy": NAN,
    }
    for result in jax.jit(program)({}, x.numpy(), beyond):
        assert to_numpy(torch.tensor(expected[name])) == pytest.approx(result, nan_ok=True)


def image(*shape: int) -> jax.Array:
    return jnp.zeros(shape)


SPLIT, EVEN, BAG = image(4, 3), image(2, 2, 2, 2), (image(4, 2), jnp.array([1, 2, 3]))
# Operator, arguments, message.
REFUSED: list[tuple[str, tuple[Any, ...], str]] = [
    ("pixel_shuffle.default", (EVEN, 2), "multiple of 4"),
    ("pixel_unshuffle.default", (EVEN, 3), "multiple of 3"),
    ("tensor_split.sections", (EVEN, 10**9), "sections must be from 1"),
    ("split.Tensor", (SPLIT, -1), "split_size must be positive for an axis of size 4, got -1"),
    ("split_with_sizes.default", (SPLIT, (5, -1)), r"must not be negative .* got \(5, -1\)"),
    ("linalg_matrix_norm.default", (EVEN, 3), "order of a matrix norm"),
    ("scatter_reduce.two", (EVEN, 0, 0, 0, "max"), "reduce must be one of"),
    ("embedding_bag.padding_idx", (*BAG, jnp.array([1, 2])), "offsets must start with 0, got 1"),
    ("grid_sampler.default", (image(1, 2, 3, 4), image(1, 1, 1, 3), 0, 0, True), "got shapes"),
    ("affine_grid_generator.default", (image(1, 3, 4), (1, 2, 3, 4), True), "needs theta"),
    ("col2im.default", (image(1, 7, 6), (3, 4), 2, 1, 0, 1), r"needs columns \(N, C \* 4, 6\)"),
    ("im2col.default", (image(1, 2, 3, 4), 0, 1, 0, 1), "must be at least 1"),
    ("max_pool1d.default", (image(1, 1, 8), 0, 1), "must be at least 1"),
    ("max_pool1d.default", (image(1, 1, 8), 10**9, 1, 0, 0), "must be at least 1"),
    ("istft.default", (image(2, 9, 6), 12), r"a spectrum \(batch, 7, frames\), got shape \(2, 9, 6\)"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), REFUSED, ids=[f"{r[0]}: {r[2]}" for r in REFUSED])
def test_refused_arguments(name: str, arguments: tuple[Any, ...], message: str) -> None:
    options = {"options": None} if name.startswith("affine") else {}
    with pytest.raises(ValueError, match=message):
        operator_function(f"aten.{name}")(*arguments, **options)


def test_matrices_without_a_result() -> None:
    """Their codes are not 0, for success. Torch counts the rows of the smallest block without a factor."""
    program = program_of_function(
        lambda x: (
            *torch.linalg.cholesky_ex(x),
            *torch.linalg.inv_ex(x),
            *torch.linalg.solve_ex(x, x[..., 0]),
        ),
        [torch.eye(2)],
    )
    factor, of_factor, _, of_inverse, _, of_solution = jax.jit(program)({}, -jnp.ones((2, 2)))
    assert jnp.isnan(factor[1]).all()
    assert of_factor == of_inverse == of_solution == jnp.iinfo(jnp.int32).min
    assert [int(x) for x in program({}, jnp.eye(2))[1::2]] == [0, 0, 0]


@pytest.mark.parametrize("mode", MODES)
def test_fractions_outside_of_quantiles(mode: str) -> None:
    program = program_of_function(
        lambda x, q: (torch.quantile(x, q, interpolation=mode),), [torch.ones(3), torch.ones(3)]
    )
    (result,) = jax.jit(program)({}, jnp.arange(3.0), jnp.array([-0.5, 0.5, 1.5]))
    assert jnp.isnan(result).tolist() == [True, False, True]


def test_histograms_without_a_range() -> None:
    """Torch raises an error. Half precision cannot count."""
    histogram = operator_function("aten.histc.default")
    for x in ([1.0, NAN], [1.0, INF]):
        assert jnp.isnan(histogram(jnp.array(x), 4)).all()
    with pytest.raises(ValueError, match="float32 or float64, got bfloat16"):
        histogram(jnp.ones(3, jnp.bfloat16), 4)
