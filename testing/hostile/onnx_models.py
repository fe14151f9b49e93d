"""Hostile ONNX files: sizes, data in other files, graphs, and bytes that are no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from testing.checkpoints.assemble import GOOD, WEIGHT
from testing.checkpoints.case import FileCase, table


def tensor(name: str = "w", shape: tuple[int, ...] = (2, 2), **fields: Any) -> TensorProto:
    """Return the valid weight, or one with other fields."""
    return TensorProto(**{"name": name, "dims": shape, "data_type": 1, "raw_data": WEIGHT.tobytes()} | fields)


def model(*tensors: TensorProto, nodes: Any = ()) -> bytes:
    graph = onnx.GraphProto(name="g", initializer=tensors, node=nodes)
    return onnx.ModelProto(ir_version=8, producer_name="x", graph=graph).SerializeToString()


def cases() -> Iterator[FileCase]:
    yield FileCase(0, "ONNX as it should be", model(tensor()), tensors=GOOD)
    yield FileCase(11, "ONNX name twice", model(tensor(), tensor()), ("duplicate-name",))
    sizes = {
        "bytes cut": tensor(raw_data=bytes(15)),
        "more rows": tensor(shape=(3, 2)),
        "size -1": tensor(shape=(-1, 2)),
        "size 2^62": tensor(shape=(1 << 62, 2)),
        "65 dimensions": tensor(shape=(1,) * 65),
        "no data": TensorProto(name="w", dims=(2, 2), data_type=1),
    }
    files = {label: model(made) for label, made in sizes.items()}
    yield from table(19, "ONNX", files, "tensor-bounds", "tensor-shape", "storage-size")
    places = {
        "data twice": tensor(float_data=[1.0] * 4),
        "raw and external data": tensor(data_location="EXTERNAL"),
        "a segment": tensor(segment=TensorProto.Segment(begin=0, end=1)),
    }
    yield from table(19, "ONNX", {label: model(t) for label, t in places.items()}, "onnx-malformed")
    yield from _external()
    yield from _graphs()


def _external() -> Iterator[FileCase]:
    """Cases 19, 25 and 36: data in other files."""

    def write(link: str | None = None, **entries: str) -> Callable[[Path], Path]:
        def create(folder: Path) -> Path:
            inside = folder / "in"
            inside.mkdir()
            (folder / "outside").write_bytes(WEIGHT.tobytes())
            (inside / "data").write_bytes(WEIGHT.tobytes())
            if link is not None:
                (inside / "link").symlink_to(link)
            made = TensorProto(name="w", dims=(2, 2), data_type=1, data_location="EXTERNAL")
            for key, value in entries.items():
                made.external_data.add(key=key, value=value)
            (inside / "model").write_bytes(model(made))
            return inside / "model"

        return create

    good = {
        "with the whole file": write(location="data"),
        "with a range": write(location="data", offset="0", length="16"),
    }
    yield from table(0, "ONNX", good, tensors=GOOD)
    paths = ("../outside", "/etc/passwd", "..", "", "a/b", "data\0")
    outside = {f"data in {path!r}": write(location=path) for path in paths}
    outside |= {f"link to {t}": write(t, location="link") for t in ("../outside", "/dev/zero", "/etc/passwd")}
    yield from table(36, "ONNX", outside, "shard-path")

    def many(folder: Path) -> Path:
        tensors = []
        for number in range(401):
            (folder / f"{number}").write_bytes(WEIGHT.tobytes())
            tensors.append(TensorProto(name=f"w{number}", dims=(2, 2), data_type=1, data_location="EXTERNAL"))
            tensors[-1].external_data.add(key="location", value=f"{number}")
        (folder / "model").write_bytes(model(*tensors))
        return folder / "model"

    yield from table(36, "ONNX", {"data in 401 files": many}, "onnx-unsupported")
    yield from table(25, "ONNX", {"data in a missing file": write(location="none")}, "missing-storage")
    ranges = {
        "beyond the file": write(location="data", offset="8"),
        "length 2^40": write(location="data", length=str(1 << 40)),
        "shorter range": write(location="data", length="8"),
    }
    yield from table(19, "ONNX", ranges, "truncated", "tensor-bounds")
    texts = {"offset -1": write(location="data", offset="-1"), "no location": write(offset="0")}
    yield from table(19, "ONNX", texts, "onnx-malformed")


def _graphs() -> Iterator[FileCase]:
    """Cases 8 to 10 and 38."""
    good = model(tensor())
    lstm = helper.make_node("LSTM", ["x"], ["y"])
    again = helper.make_node("LSTM", ["x", "w", "w"], ["y"], hidden_size=1)
    again.attribute.append(again.attribute[0])
    named = good.replace(b"\x42\x01w", b"\x42\x01\xff")
    deep = onnx.GraphProto(name="g")
    for _ in range(25):
        deep = onnx.GraphProto(name="g", node=[helper.make_node("If", ["c"], ["y"], then_branch=deep)])
    malformed = {
        "length 2^60": good + b"\x3a" + b"\x80" * 8 + b"\x10",
        "number without end": good + b"\x3a" + b"\xff" * 20,
        "no graph": onnx.ModelProto(ir_version=8, producer_name="x").SerializeToString(),
        "name is no text": named,
        "graphs 25 deep": model(nodes=deep.node),
        "LSTM without weights": model(nodes=[lstm]),
        "attribute twice": model(tensor(), nodes=[again]),
        "300,000 nodes": model(nodes=[onnx.NodeProto()] * 300_000),
    }
    assert named != good
    yield from table(8, "ONNX", malformed, "onnx-malformed")
    weights = [tensor(f"W{i}", (1, 4, 1)) for i in range(100)]
    nodes = [helper.make_node("LSTM", ["", f"W{i % 100}", f"W{i // 100}"], ["y"]) for i in range(2_000)]
    yield FileCase(9, "ONNX 2,000 LSTM nodes", model(*weights, nodes=nodes), ("onnx-unsupported",))
