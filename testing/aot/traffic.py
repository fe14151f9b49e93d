"""The HBM traffic of a compiled TPU program, from the memory that the compiler assigns to each array.

In the text of a TPU program, a layout with ``S(1)`` is in VMEM, and a layout without it is in HBM. An
instruction reads its operands and writes its result. Slicing reads only the slice, and updating a slice
writes only the slice. A kernel reads and writes each array once. A loop multiplies the traffic of its body
by the number of iterations. Sizes include the padding to whole tiles.
"""

from __future__ import annotations

import math
import re

from testing.aot.hlo import Computation, Hlo, Instruction

FREE = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("copy-done", "slice-done"),  # counted at the corresponding start
)
SHAPE = re.compile(r"\b(pred|[su]8|bf16|f16|[suf]32|[suf]64)\[([\d,]*)\](?:\{([^}]*)\})?")


def hbm_bytes(hlo: Hlo) -> int:
    """Return the bytes that one run of the program reads from and writes to HBM."""
    entry = re.search(r"^ENTRY %?([\w.\-]+)", hlo.text, re.MULTILINE)
    assert entry is not None
    return _of(hlo, hlo.computations[entry[1]])


def _of(hlo: Hlo, computation: Computation) -> int:
    types = {i.name: _type(i) for i in computation.instructions}
    total = 0
    for i in computation.instructions:
        if i.op == "while":
            body = re.search(r"body=%?([\w.\-]+)", i.line)
            assert body is not None
            total += iterations(hlo, i) * _of(hlo, hlo.computations[body[1]])
        elif i.op == "fusion":
            total += _of_fusion(hlo, i, types)
        elif i.op == "copy-start":  # its type is (destination, source, flag)
            total += _in_hbm(_type(i))
        elif i.op == "slice-start":  # ((source), destination, flag)
            source, slice_, _ = _shapes(_type(i))
            total += _in_hbm(slice_) + (_size(slice_) if _in_hbm(source) else 0)
        elif i.op not in FREE and "AllocateBuffer" not in i.line:
            total += _in_hbm(_type(i)) + sum(_in_hbm(types[name]) for name in i.operands)
    return total


def iterations(hlo: Hlo, loop: Instruction) -> int:
    """Return the number of iterations of a loop over time, the bound in its condition."""
    condition = re.search(r"condition=%?([\w.\-]+)", loop.line)
    assert condition is not None
    lines = " ".join(i.line for i in hlo.computations[condition[1]].instructions)
    (limit,) = set(re.findall(r"constant\((\d+)\)", lines))
    assert "direction=LT" in lines, lines
    return int(limit)


def _of_fusion(hlo: Hlo, fusion: Instruction, types: dict[str, str]) -> int:
    """Return the traffic of a fusion. ``types`` holds the types of its operands."""
    called = hlo.computations[fusion.called[0]]
    by_name = {i.name: i for i in called.instructions}
    total = 0
    for number, name in enumerate(fusion.operands):
        whole = _in_hbm(types[name])
        total += min(whole, _read(hlo, called, number, whole)) if whole else 0
    root = called.root
    results = [by_name[name] for name in root.operands] if root.op == "tuple" else [root]
    for result, shape in zip(results, _shapes(_type(fusion)), strict=True):
        while result.op == "bitcast":
            result = by_name[result.operands[0]]
        if _in_hbm(shape) and result.op == "dynamic-update-slice":
            total += _size(_type(by_name[result.operands[1]]))
        else:
            total += _in_hbm(shape)
    return total


def _read(hlo: Hlo, called: Computation, number: int, whole: int) -> int:
    """Return the bytes that a fusion reads of one operand: its slices, or the whole."""
    (parameter,) = (i for i in called.instructions if f" parameter({number})" in i.line)
    total = 0
    for user in called.instructions:
        for place, name in enumerate(user.operands):
            if name != parameter.name:
                continue
            if user.op == "dynamic-slice":
                total += _size(_type(user))
            elif user.op == "fusion":
                total += _read(hlo, hlo.computations[user.called[0]], place, whole)
            elif user.op != "dynamic-update-slice" or place != 0:
                total += whole
    return total


def _type(i: Instruction) -> str:
    return i.line.split(" = ", 1)[1].split(f" {i.op}(", 1)[0]


def _shapes(type_: str) -> list[str]:
    return [found[0] for found in SHAPE.finditer(type_)]


def _in_hbm(type_: str) -> int:
    """Return the bytes of the arrays of a type that are in HBM. Flags and counters are in S(2) and S(6)."""
    return sum(_size(shape) for shape in _shapes(type_) if "S(" not in shape)


def _size(shape: str) -> int:
    """Return the bytes of one array, padded to whole tiles of its layout."""
    found = SHAPE.match(shape)
    assert found is not None, shape
    dims = [int(n) for n in found[2].split(",") if n]
    layout, *_ = (found[3] or "").split(":")
    order = [int(n) for n in layout.split(",") if n]
    tile = re.search(r":T\(([\d,]+)\)", shape)
    if tile and dims:
        for axis, unit in zip(order, reversed(tile[1].split(",")), strict=False):
            dims[axis] = -(-dims[axis] // int(unit)) * int(unit)
    bits = re.search(r"\d+", found[1])
    return math.prod(dims) * (int(bits[0]) // 8 if bits else 1)
