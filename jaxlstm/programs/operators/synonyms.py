"""Other names of operators: torch.multiply is torch.mul, and a graph keeps the name that was called."""

from __future__ import annotations

from jaxlstm.programs.operators.registry import register_synonym

_SYNONYMS = {
    "abs": "absolute",
    "acos": "arccos",
    "acosh": "arccosh",
    "asin": "arcsin",
    "asinh": "arcsinh",
    "atan": "arctan",
    "atan2": "arctan2",
    "atanh": "arctanh",
    "cat": "concatenate",
    "div": "divide",
    "erf": "special_erf",
    "erfc": "special_erfc",
    "exp2": "special_exp2",
    "expm1": "special_expm1",
    "ge": "greater_equal",
    "gt": "greater",
    "le": "less_equal",
    "log1p": "special_log1p",
    "logit": "special_logit",
    "logsumexp": "special_logsumexp",
    "lt": "less",
    "matmul": "linalg_matmul",
    "movedim": "moveaxis",
    "mul": "multiply",
    "ne": "not_equal",
    "neg": "negative",
    "outer": "ger",
    "sigmoid": "special_expit",
    "sinc": "special_sinc",
    "sub": "subtract",
    "trunc": "fix",
    "vstack": "row_stack",
}

for _name, _synonym in _SYNONYMS.items():
    register_synonym(_name, _synonym)
