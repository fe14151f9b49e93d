"""The program of a module in an archive, for an example that a command line describes."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from ..pt2._from_module import from_module
from ._load_torchscript import load_torchscript

if TYPE_CHECKING:
    from jaxlstm.programs.program import Program

_INPUT = re.compile(r"(\w+)=(?:(\w+)\[([\d, ]*)\]|(.+))")


def script_program(
    path: str, submodule: str | None, method: str | None, inputs: Iterable[str]
) -> tuple[Program, tuple[Any, ...]]:
    """Return the program of a module in an archive, or of a method of it, with the arguments of the example.

    An input is "x=float32[3,576]", a tensor of random numbers, or "sr=16000", a number or string.
    """
    module = load_torchscript(path).eval()
    try:
        module = module.get_submodule(submodule or "")
    except AttributeError:
        names = ", ".join(name for name, _ in module.named_modules() if name)
        raise ValueError(f"--submodule {submodule}: the archive has only the modules {names}") from None
    generator = torch.Generator().manual_seed(0)
    values = dict(_value(text, generator) for text in inputs)
    signature = inspect.signature(getattr(module, method or "forward"))
    try:
        bound = signature.bind(**values)
    except TypeError as error:
        names = ", ".join(signature.parameters)
        raise ValueError(f"--input must name the arguments ({names}) of the method: {error}") from None
    return from_module(module, bound.args, method=method), bound.args


def _value(text: str, generator: torch.Generator) -> tuple[str, Any]:
    matched = _INPUT.fullmatch(text)
    dtype = getattr(torch, matched[2] or "float32", None) if matched else None
    if matched is None or not isinstance(dtype, torch.dtype):
        expected = "NAME=DTYPE[SIZES] or NAME=VALUE, such as 'x=float32[2,5]'"
        raise ValueError(f"--input must be {expected}, got {text!r}")
    if matched[2] is None:
        try:
            return matched[1], ast.literal_eval(matched[4])
        except (ValueError, SyntaxError):
            return matched[1], matched[4]
    sizes = [int(size) for size in matched[3].split(",") if size.strip()]
    if dtype.is_floating_point or dtype.is_complex:
        return matched[1], torch.randn(sizes, generator=generator, dtype=dtype)
    return matched[1], torch.randint(0, 2, sizes, generator=generator).to(dtype)
