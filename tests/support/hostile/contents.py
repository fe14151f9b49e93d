"""Hostile contents of zip archives: checksums, roots, byte order, code."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from tests.support.checkpoints.assemble import (
    WEIGHT,
    Member,
    ScriptBox,
    archive,
    mapping,
    name,
)
from tests.support.checkpoints.case import Case
from tests.support.hostile.archives import GOOD, SOURCES, npz


def cases() -> Iterator[Case]:
    for label, source in SOURCES.items():
        tensors = GOOD if label != "npz" else {"w": WEIGHT, "v": WEIGHT}
        yield from _contents(label, source, tensors)
    yield from _roots()
    yield from _byte_order()
    yield from _code()


def _contents(
    label: str, source: Callable[[], list[Member]], tensors: dict[str, np.ndarray]
) -> Iterator[Case]:
    """Case 17: checksums."""
    made = source()
    weight = 0 if label == "npz" else 2
    wrong = list(made)
    wrong[weight] = replace(made[weight], crc=zlib.crc32(made[weight].data) ^ 1)
    yield Case(17, f"{label} of a weight", archive(wrong), ("crc-mismatch",), at_read=True)
    unchecked = {"check_crc": False}
    yield Case(
        17, f"{label} of a weight, unchecked", archive(wrong), tensors=tensors, options=unchecked
    )
    if label == "npz":
        return
    for index in (0, 1):
        wrong = list(made)
        wrong[index] = replace(made[index], crc=0)
        file = archive(wrong)
        yield Case(17, f"{label} of {made[index].name}", file, ("crc-mismatch",))
        yield Case(
            17,
            f"{label} of {made[index].name}, unchecked",
            file,
            tensors=tensors,
            options=unchecked,
        )


def _roots() -> Iterator[Case]:
    """Case 13: an ambiguous root directory."""
    for label in ("zip", "TorchScript"):
        made = SOURCES[label]()
        pickle = made[0].data
        second = [*made, Member("n/data.pkl", pickle)]
        yield Case(13, f"{label} two roots", archive(second), ("zip-layout",))
        deeper = [*made, Member("m/n/data.pkl", pickle)]
        yield Case(13, f"{label} a root within", archive(deeper), ("zip-layout",))
        bare = [Member("data.pkl", pickle), *made]
        yield Case(13, f"{label} a root without folder", archive(bare), ("zip-layout",))
        stray = [*made, Member("n/data/0", b"x")]
        yield Case(13, f"{label} a stray entry", archive(stray), ("zip-layout",))
        yield Case(13, f"{label} no root", archive(made[1:]), ("zip-layout",))
    yield Case(13, "zip without entries", archive([]), ("zip-layout", "unknown-format"))
    yield Case(13, "npz and a root", archive([*npz(), *SOURCES["zip"]()]), ("zip-layout",))


def _byte_order() -> Iterator[Case]:
    """Case 28: an unknown byte order."""
    for label in ("zip", "TorchScript"):
        made = SOURCES[label]()
        big = list(made)
        big[1] = replace(made[1], data=b"big")
        big[2] = replace(made[2], data=WEIGHT.astype(">f4").tobytes())
        yield Case(28, f"{label} big", archive(big), tensors=GOOD)
        for order in (b"middle", b"", b"LITTLE", b"little\n", b"x" * 5000):
            odd = [made[0], replace(made[1], data=order), *made[2:]]
            yield Case(28, f"{label} {order[:9]!r}", archive(odd), ("byteorder",))
    raw = io.BytesIO()
    np.save(raw, WEIGHT.astype(">f4"))
    yield Case(28, "npz big", archive([Member("w.npy", raw.getvalue())]), tensors=GOOD)


def _code() -> Iterator[Case]:
    """Case 29: the code in a TorchScript archive is never read."""
    box = ScriptBox()
    root = name("__torch__", "Net") + b")\x81" + mapping(w=box.weight(), training=b"\x89") + b"b"
    made = box.members(b"\x80\x02" + root + b".")
    yield Case(29, "TorchScript an object", archive(made), tensors=GOOD)
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
            code = Member("m/code/__torch__/evil.py", program, method=method)
            file = archive([*made, code])
            yield Case(29, f"TorchScript code {label}, method {method}", file, tensors=GOOD)
    wrong = Member("m/code/x.py", b"pass", crc=1)
    yield Case(29, "TorchScript code of another checksum", archive([*made, wrong]), tensors=GOOD)
    constants = [
        replace(m, data=b"\x80\x02}.") if m.name.endswith("constants.pkl") else m for m in made
    ]
    yield Case(29, "TorchScript constants are no tuple", archive(constants), ("zip-layout",))
