"""The arguments of torch functions that have no Python signature."""

from __future__ import annotations

_WINDOW = ("input", "kernel_size", "stride", "padding")
_CONV = ("input", "weight", "bias", "stride", "padding")
_INPLACE = ("relu", "silu", "selu", "mish", "hardsigmoid", "hardswish", "relu6")
ARGUMENT_NAMES = {
    **dict.fromkeys(
        ("relu", "silu", "selu", "mish", "hardsigmoid", "hardswish", "relu6"), ("input", "inplace")
    ),
    **dict.fromkeys(("tanh", "sigmoid", "softplus", "softsign", "logsigmoid"), ("input",)),
    "leaky_relu": ("input", "negative_slope", "inplace"),
    "elu": ("input", "alpha", "inplace"),
    "prelu": ("input", "weight"),
    **dict.fromkeys(("sum", "mean", "amax", "max"), ("input", "dim", "keepdim")),
    **dict.fromkeys(("mul", "div"), ("input", "other")),
    "indexing": ("input", "index"),
    "linear": ("input", "weight", "bias"),
    **{f"conv{n}d": (*_CONV, "dilation", "groups") for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": (*_CONV, "output_padding", "groups", "dilation") for n in (1, 2, 3)},
    **{f"max_pool{n}d": (*_WINDOW, "dilation", "ceil_mode", "return_indices") for n in (1, 2, 3)},
    **{f"avg_pool{n}d": (*_WINDOW, "ceil_mode", "count_include_pad", "divisor_override") for n in (1, 2, 3)},
    "flatten": ("input", "start_dim", "end_dim"),
    "gelu": ("input",),
    "masked_fill": ("input", "mask", "value"),
    "where": ("condition", "input", "other"),
    "cat": ("tensors", "dim"),
    "stack": ("tensors", "dim"),
    "softmax": ("input", "dim"),
    "log_softmax": ("input", "dim"),
    "scaled_dot_product_attention": ("query", "key", "value", "attn_mask", "dropout_p", "is_causal"),
    "lstm": (
        *("input", "hx", "params", "has_biases", "num_layers"),
        *("dropout", "train", "bidirectional", "batch_first"),
    ),
    "pack_padded_sequence": ("input", "lengths", "batch_first"),
}
"""The arguments of builtin functions, which have no signature."""

RENAMED = {
    "concat": "cat",
    "concatenate": "cat",
    "relu_": "relu",
    "__getitem__": "indexing",
    "_pack_padded_sequence": "pack_padded_sequence",
}
"""Names of one operation under its usual name."""
