"""`read_pt2`: the graph and the tensors of a `.pt2` file."""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from jaxlstm.programs.graph import CallSignature, Graph, Structure
from jaxlstm_converters.checkpoint.errors import CheckpointError, printable
from jaxlstm_converters.checkpoint.formats.pt2 import read_tensors
from jaxlstm_converters.checkpoint.formats.pt2_archive import ProgramArchive, is_pt2, open_program
from jaxlstm_converters.checkpoint.io._make_tensor import Budget
from jaxlstm_converters.checkpoint.io.files import CheckpointFile
from jaxlstm_converters.checkpoint.io.tensor import Tensor
from jaxlstm_converters.checkpoint.io.zip_archive import Archive
from jaxlstm_converters.pt2.fields import malformed, typed
from jaxlstm_converters.pt2.schema import read_graph, recorded_types
from jaxlstm_converters.pt2.tensor_types import TensorTypes
from jaxlstm_converters.pt2.tree_spec import MAX_DEPTH

_LARGEST_EXAMPLE = 256 << 20
_LINES, _CALLS = "extra/jaxlstm", "extra/jaxlstm_calls"
_NOT_A_PROGRAM = "not a program of torch.export.save; jaxlstm.load and load_state_dict read checkpoints"


class ProgramFile(NamedTuple):
    """The parts of a program.

    Attributes:
        graph: the graph.
        tensors: name in torch -> array of every parameter, buffer and constant. Tied tensors are the same
            array.
        document: the JSON text from which the graph was read.
        example: the inner file of torch.save with the example; b"" if it is missing or exceeds 256 MiB.
    """

    graph: Graph
    tensors: dict[str, np.ndarray]
    document: bytes
    example: bytes


def read_pt2(path: str | os.PathLike[str], *, check_crc: bool = True) -> ProgramFile:
    """Return the graph of an exported program and its tensors, without torch."""
    return read_source(CheckpointFile(path), check_crc=check_crc)


def read_source(source: CheckpointFile, *, check_crc: bool = True) -> ProgramFile:
    """Return the program in an open file; see `read_pt2`."""
    try:
        return _read(source, check_crc)
    except CheckpointError as error:
        error.path = error.path or source.path
        raise


def _read(source: CheckpointFile, check_crc: bool) -> ProgramFile:
    if source.read(0, min(2, source.size)) != b"PK":
        raise CheckpointError("unknown-format", _NOT_A_PROGRAM)
    archive = Archive(source, check_crc)
    if not is_pt2(archive):
        raise CheckpointError("unknown-format", _NOT_A_PROGRAM)
    program = open_program(archive)
    tensors = read_tensors(program, Budget(source.size))
    known: Any = {"lines": _read_lines(program), "signatures": _read_signatures(program)}
    graph = replace(read_graph(program.document), shared=_shared_tensors(tensors), **known)
    _require_tensors(graph, recorded_types(program.document), tensors)
    arrays = _read_arrays(tensors)
    text = source.read(program.text.offset, program.text.size)
    example = program.pickled("sample_inputs")
    saved = b""
    if example is not None and example.size <= _LARGEST_EXAMPLE:
        saved = source.read(example.offset, example.size)
    source.check_unchanged()
    return ProgramFile(graph, arrays, text, saved)


def _extra(program: ProgramArchive, name: str) -> dict[str, Any]:
    """Return the JSON object in an extra file that `Program.save` wrote; {} in files of torch."""
    entry = program.entry(name)
    return program.json(name) if entry and entry.size else {}


def _read_lines(program: ProgramArchive) -> dict[str, str]:
    """Return the lines of the model's code."""
    lines = _extra(program, _LINES)
    return {key: printable(typed(line, str, _LINES), 200) for key, line in lines.items()}


def _read_signatures(program: ProgramArchive) -> dict[str, CallSignature]:
    """Return the signatures of the calls of modules."""
    found: dict[str, CallSignature] = {}
    for key, record in _extra(program, _CALLS).items():
        if type(record) is not list or len(record) != 2:
            raise malformed(_CALLS, "a call is not a list of arguments and results")
        pairs = [typed(pair, list, _CALLS) for pair in typed(record[0], list, _CALLS)]
        if any(len(pair) != 2 for pair in pairs):
            raise malformed(_CALLS, "an argument is not a name and a value")
        arguments = tuple((typed(name, str, _CALLS), _structure(value)) for name, value in pairs)
        found[key] = CallSignature(arguments, _structure(record[1]))
    return found


def _structure(value: Any, depth: int = 0) -> Structure:
    if depth > MAX_DEPTH:
        raise CheckpointError("too-deep", f"{_CALLS}: a structure has more than {MAX_DEPTH} levels")
    if type(value) is list:
        return tuple(_structure(item, depth + 1) for item in value)
    return None if value is None else typed(value, str, _CALLS)


def _require_tensors(graph: Graph, types: TensorTypes, tensors: Mapping[str, Tensor]) -> None:
    """Raise unless the file holds a tensor of the recorded type for each placeholder that is not an input."""
    for placeholders in (graph.parameters, graph.buffers, graph.constants):
        for value, name in placeholders.items():
            if name not in tensors:
                message = f"the program uses the tensor {printable(name)!r}, which the file does not contain"
                raise CheckpointError("missing-storage", message)
            expected, tensor = types.of(value), tensors[name]
            if (tensor.dtype, tensor.shape) != (expected.dtype, expected.shape):
                raise malformed(
                    printable(name),
                    f"the tensor has dtype {tensor.dtype.name} and shape {tensor.shape}, but the graph "
                    f"expects {expected.dtype.name} and {expected.shape}",
                )


def _read_arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Read all tensors; tied tensors become one array."""
    arrays: dict[object, np.ndarray] = {}
    for tensor in tensors.values():
        if tensor.identity not in arrays:
            arrays[tensor.identity] = tensor.read()
    return {name: arrays[tensor.identity] for name, tensor in tensors.items()}


def _shared_tensors(tensors: Mapping[str, Tensor]) -> tuple[tuple[str, ...], ...]:
    """Return groups of names of tensors whose ranges of bytes overlap."""
    ranges = sorted((id(tensor.storage), *tensor.byte_range, name) for name, tensor in tensors.items())
    groups: list[list[str]] = []
    reached = (0, 0)
    for storage, start, end, name in ranges:
        if (storage, start) < reached:
            groups[-1].append(name)
        else:
            groups.append([name])
        reached = max(reached, (storage, end))
    return tuple(tuple(group) for group in groups if len(group) > 1)
