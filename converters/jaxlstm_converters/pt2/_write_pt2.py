"""`write_programs`: programs with new values of their tensors as a file that torch opens.

The file has the layout of torch 2.9 and later: the JSON text and the example that were read, the bytes of
each tensor, and configs that describe them. Programs share bytes. Extra files are not written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from jaxlstm._shared.files import require_replaceable, write_atomically
from jaxlstm.programs.graph import CallSignature, Input
from jaxlstm_converters.checkpoint.formats.pt2 import SCALAR_TYPES, STRIDED
from jaxlstm_converters.checkpoint.io.tensor import contiguous_strides
from jaxlstm_converters.pt2._read_pt2 import CALLS, LINES, ProgramFile, extra_name
from jaxlstm_converters.pt2.example import example_tensors
from jaxlstm_converters.write.torch_zip import has_entry, zip_bytes

_ROOT = "program"
_CODES = {name: code for code, name in SCALAR_TYPES.items()}
_Paths: TypeAlias = dict[tuple[str, tuple[str, ...], bytes], str]
"""Folder, names and bytes of a tensor -> the name of its entry."""


@dataclass(frozen=True)
class ProgramWriter:
    """A program that was read from a file, as it is written again.

    Attributes:
        document: the JSON text of the program.
        stored: name in torch -> dtype, shape and identity of every tensor; tied tensors are identical.
        constants: name -> value of the constants.
        lines, signatures: facts beside the document, see `jaxlstm.programs.graph.Graph`.
        example: the example, see `ProgramFile`. One that cannot be read is not written.
        inputs: the inputs of the program.
    """

    document: bytes
    stored: Mapping[str, tuple[np.dtype[Any], tuple[int, ...], int]]
    constants: Mapping[str, np.ndarray]
    lines: Mapping[str, str]
    signatures: Mapping[str, CallSignature]
    example: bytes
    inputs: tuple[Input, ...]

    @classmethod
    def of(cls, file: ProgramFile) -> ProgramWriter:
        """Return the writer of a program. It keeps the values of the constants only."""
        stored = {name: (array.dtype, array.shape, id(array)) for name, array in file.tensors.items()}
        constants = {name: file.tensors[name] for name in file.graph.constants.values()}
        graph = file.graph
        known = graph.lines, graph.signatures
        return cls(file.document, stored, constants, *known, file.example, graph.inputs)

    def __call__(self, path: Path, programs: Mapping[str, tuple[Any, Any]], *, overwrite: bool) -> None:
        """Write a file, see `write_programs`."""
        write_programs(path, programs, overwrite=overwrite)

    def entries(self, name: str, values: Mapping[str, Any], paths: _Paths) -> dict[str, bytes]:
        """Return the entries of the program under a name; ``paths`` has the tensors of all programs."""
        extra = {LINES: dict(self.lines), CALLS: dict(self.signatures)}
        has_example = example_tensors(self.example, self.inputs) is not None
        return {
            f"models/{name}.json": self.document,
            # torch requires this entry; an empty one stands for no example.
            f"data/sample_inputs/{name}.pt": self.example if has_example else b"",
            **{extra_name(kind, name): json.dumps(x).encode() if x else b"" for kind, x in extra.items()},
            **self._tensor_entries(name, {**self.constants, **values}, paths),
        }

    def _tensor_entries(self, program: str, values: Mapping[str, Any], paths: _Paths) -> dict[str, bytes]:
        """Return the entries that hold the tensors, and the configs that describe them."""
        module = json.loads(self.document)["graph_module"]
        records = module["graph"]["tensor_values"]
        configs: dict[str, dict[str, Any]] = {"weights": {}, "constants": {}}
        entries: dict[str, bytes] = {}
        # Tied tensors were read as one array, and share an entry as long as their values are equal.
        names: dict[int, list[str]] = {}
        for name, (_, _, tie) in sorted(self.stored.items()):
            names.setdefault(tie, []).append(name)
        for spec in module["signature"]["input_specs"]:
            ((kind, placeholder),) = spec.items()
            if kind not in ("parameter", "buffer", "tensor_constant"):
                continue
            name = placeholder[f"{kind}_name"]
            persistent = kind == "parameter" or placeholder.get("persistent", False)
            folder, prefix = ("weights", "weight") if persistent else ("constants", "tensor")
            dtype, shape, tie = self.stored[name]
            array = _as_stored(values[name], dtype, shape)
            key = folder, tuple(names[tie]), array.tobytes()
            path = paths.setdefault(key, f"{prefix}_{len(paths)}")
            entries[f"data/{folder}/{path}"] = key[2]
            configs[folder][name] = {
                "path_name": path,
                "is_param": kind == "parameter",
                "use_pickle": False,
                "tensor_meta": _meta(array, records[placeholder["arg"]["name"]].get("requires_grad", False)),
            }
        for folder, config in configs.items():
            text = json.dumps({"config": config})
            entries[f"data/{folder}/{program}_{folder}_config.json"] = text.encode()
        return entries


def write_programs(
    path: Path, programs: Mapping[str, tuple[Any, Mapping[str, Any]]], *, overwrite: bool
) -> None:
    """Write a file of programs by name, each with its writer and the values of its tensors, atomically."""
    require_replaceable(path, overwrite=overwrite, is_ours=lambda path: has_entry(path, f"{_ROOT}/{LINES}"))
    entries = {
        "archive_format": b"pt2",
        "archive_version": b"0",
        "byteorder": b"little",
        ".data/version": b"3\n",
        LINES: b"",  # tells jaxlstm that it may replace the file
    }
    paths: _Paths = {}
    for name, (writer, values) in programs.items():
        entries |= writer.entries(name, values, paths)
    write_atomically(path, [zip_bytes({f"{_ROOT}/{name}": data for name, data in entries.items()})])


def _as_stored(value: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    """Return the value of a tensor in the dtype of the file, little-endian and contiguous.

    JAX holds the integers of a program in 32 bits unless its 64-bit mode is on.
    """
    return np.ascontiguousarray(value, dtype.newbyteorder("<")).reshape(shape)


def _meta(array: np.ndarray, requires_grad: bool) -> dict[str, Any]:
    """Return the description of a contiguous tensor in torch's schema."""
    return {
        "dtype": _CODES[array.dtype.name],
        "sizes": [{"as_int": n} for n in array.shape],
        "requires_grad": requires_grad,
        "device": {"type": "cpu", "index": None},
        "strides": [{"as_int": n} for n in contiguous_strides(array.shape)],
        "storage_offset": {"as_int": 0},
        "layout": STRIDED,
    }
