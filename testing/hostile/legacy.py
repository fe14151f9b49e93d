"""Hostile files in the legacy stream format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from testing.checkpoints.assemble import GOOD, WEIGHT, LegacyBox, PlainBox, mapping, text
from testing.checkpoints.case import FileCase, table


def cases() -> Iterator[FileCase]:
    """Case 30."""
    for make in (LegacyBox, PlainBox):
        yield from make.storages(0, {"as it should be": {}}, tensors=GOOD)
    # Attributes of the file, and the error code.
    edits: dict[str, tuple[dict[str, Any], str]] = {
        "magic number": ({"magic": b"\x80\x02\x8a\x01\x07."}, "legacy-header"),
        "magic text": ({"magic": b"\x80\x02" + text("x") + b"."}, "trailing-bytes"),
        "protocol 1002": ({"version": b"\x80\x02M\xea\x03."}, "legacy-header"),
        "protocol a text": ({"version": b"\x80\x02" + text("1") + b"."}, "legacy-header"),
        "no system": ({"system": b"\x80\x02N."}, "legacy-header"),
        "system without byte order": ({"system": b"\x80\x02}."}, "legacy-header"),
        "keys missing": ({"keys": []}, "missing-storage"),
        "keys twice": ({"keys": ["0", "0"]}, "missing-storage"),
        "more keys": ({"keys": ["0", "1"]}, "missing-storage"),
        "numel 3": ({"numel": 3}, "storage-size"),
        "numel -1": ({"numel": -1}, "storage-size"),
        "numel 2^62": ({"numel": 1 << 62}, "storage-size"),
        "storage cut": ({"data": {"0": WEIGHT.tobytes()[:-1]}}, "storage-size"),
        "more bytes": ({"tail": bytes(100)}, "trailing-bytes"),
    }
    for label, (attributes, code) in edits.items():
        box = LegacyBox()
        root = mapping(w=box.weight())
        vars(box).update(attributes)
        yield box.case(30, label, root, code)
    box = LegacyBox()
    whole = box.file(mapping(w=box.weight()))
    cuts = {str(cut): whole[:-cut] for cut in (1, 8, 15, 16, 17, 24, 40, 200)}
    yield from table(30, "legacy cut by", cuts, "truncated", "pickle-malformed")
    yield from LegacyBox.storages(30, {"4 TB announced": {"numel": 1 << 40}}, "truncated")
