"""Hostile contents of zip archives: checksums, roots, byte order, code."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from testing.checkpoints.assemble import GOOD, WEIGHT, ScriptBox, ZipMember, archive, mapping, name
from testing.checkpoints.case import FileCase, table
from testing.hostile.archives import SOURCES, npz


def cases() -> Iterator[FileCase]:
    for label, source in SOURCES.items():
        tensors = GOOD if label != "npz" else {"w": WEIGHT, "v": WEIGHT}
        yield from _contents(label, source, tensors)
    yield from _roots()
    yield from _byte_order()
    yield from _code()


def _contents(
    label: str, source: Callable[[], list[ZipMember]], tensors: dict[str, np.ndarray]
) -> Iterator[FileCase]:
    """FileCase 17: checksums."""
    made = source()
    unchecked: dict[str, Any] = {"tensors": tensors, "options": {"check_crc": False}}
    weight = 0 if label == "npz" else 2
    for index in (weight,) if label == "npz" else (weight, 0, 1):
        # A checksum of 0 is wrong too.
        crc = zlib.crc32(made[index].data) ^ 1 if index == weight else 0
        wrong = [*made[:index], replace(made[index], crc=crc), *made[index + 1 :]]
        entry = "a weight" if index == weight else made[index].name
        file = archive(wrong)
        yield FileCase(17, f"{label} of {entry}", file, ("crc-mismatch",), at_read=index == weight)
        yield FileCase(17, f"{label} of {entry}, unchecked", file, **unchecked)


def _roots() -> Iterator[FileCase]:
    """FileCase 13: an ambiguous root directory."""
    for label in ("zip", "TorchScript"):
        made = SOURCES[label]()
        pickle = made[0].data
        roots = {
            "two roots": [*made, ZipMember("n/data.pkl", pickle)],
            "a root within": [*made, ZipMember("m/n/data.pkl", pickle)],
            "a root without folder": [ZipMember("data.pkl", pickle), *made],
            "a stray entry": [*made, ZipMember("n/data/0", b"x")],
            "no root": made[1:],
        }
        files = {what: archive(members) for what, members in roots.items()}
        yield from table(13, label, files, "zip-layout")
    yield FileCase(13, "zip without entries", archive([]), ("zip-layout", "unknown-format"))
    yield FileCase(13, "npz and a root", archive([*npz(), *SOURCES["zip"]()]), ("zip-layout",))


def _byte_order() -> Iterator[FileCase]:
    """FileCase 28: an unknown byte order."""
    for label in ("zip", "TorchScript"):
        made = SOURCES[label]()
        big = list(made)
        big[1] = replace(made[1], data=b"big")
        big[2] = replace(made[2], data=WEIGHT.astype(">f4").tobytes())
        yield FileCase(28, f"{label} big", archive(big), tensors=GOOD)
        for order in (b"middle", b"", b"LITTLE", b"little\n", b"x" * 5000):
            odd = [made[0], replace(made[1], data=order), *made[2:]]
            yield FileCase(28, f"{label} {order[:9]!r}", archive(odd), ("byteorder",))
    raw = io.BytesIO()
    np.save(raw, WEIGHT.astype(">f4"))
    yield FileCase(28, "npz big", archive([ZipMember("w.npy", raw.getvalue())]), tensors=GOOD)


def _code() -> Iterator[FileCase]:
    """FileCase 29: the code in a TorchScript archive is never read."""
    box = ScriptBox()
    root = name("__torch__", "Net") + b")\x81" + mapping(w=box.weight(), training=b"\x89") + b"b"
    made = box.members(b"\x80\x02" + root + b".")
    yield FileCase(29, "TorchScript an object", archive(made), tensors=GOOD)
    programs = {
        "that calls": b"import os\nos.system('touch PWNED')\n",
        "that is garbage": bytes(range(256)) * 100,
        "that nests": b"(" * 1_000_000,
        "that inflates": bytes(30_000_000),
    }
    for label, program in programs.items():
        for method in (0, 8):
            if method == 0 and len(program) > 10**7:
                continue
            code = ZipMember("m/code/__torch__/evil.py", program, method=method)
            file = archive([*made, code])
            yield FileCase(29, f"TorchScript code {label}, method {method}", file, tensors=GOOD)
    wrong = ZipMember("m/code/x.py", b"pass", crc=1)
    yield FileCase(29, "TorchScript code of another checksum", archive([*made, wrong]), tensors=GOOD)
    constants = [replace(m, data=b"\x80\x02}.") if m.name.endswith("constants.pkl") else m for m in made]
    yield FileCase(29, "TorchScript constants are not a tuple", archive(constants), ("zip-layout",))
