"""`read_pt2`: the graph and the tensors of a `.pt2` file."""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from jaxlstm.programs.graph import CallSignature, Graph, Structure
from jaxlstm_converters.checkpoint.errors import CheckpointError, printable
from jaxlstm_converters.checkpoint.formats.pt2 import read_tensors
from jaxlstm_converters.checkpoint.formats.pt2_archive import ONLY, ProgramArchive, is_pt2, open_programs
from jaxlstm_converters.checkpoint.io._make_tensor import Budget
from jaxlstm_converters.checkpoint.io.files import CheckpointFile
from jaxlstm_converters.checkpoint.io.storage import Storage
from jaxlstm_converters.checkpoint.io.tensor import Tensor
from jaxlstm_converters.checkpoint.io.zip_archive import Archive
from jaxlstm_converters.pt2.schema.fields import malformed, typed
from jaxlstm_converters.pt2.schema.graphs import read_graph, recorded_types
from jaxlstm_converters.pt2.schema.tensor_types import TensorTypes
from jaxlstm_converters.pt2.schema.tree_spec import MAX_DEPTH

_LARGEST_EXAMPLE = 256 << 20
_MOST_BRANCHES = 3
"""Number of other branches of two conditions, which `Program.save` writes."""
_MOST_SIZES = 64
"""Number of programs of other sizes in a file."""
LINES, CALLS = "extra/jaxlstm", "extra/jaxlstm_calls"
SIZES = "sizes"
_NOT_A_PROGRAM = "not a program of torch.export.save; jaxlstm.load and load_state_dict read checkpoints"


class ProgramFile(NamedTuple):
    """The parts of a program.

    Attributes:
        graph: the graph.
        tensors: name in torch -> array of every parameter, buffer and constant. Tied tensors are the same
            array.
        document: the JSON text from which the graph was read.
        example: the inner file of torch.save with the example; b"" if it is missing or exceeds 256 MiB.
        branches: the programs of other branches of conditions on values, which `Program.save` wrote.
        sizes: the programs of other sizes, lengths of lists and constants, which it wrote too.
    """

    graph: Graph
    tensors: dict[str, np.ndarray]
    document: bytes
    example: bytes
    branches: tuple[Any, ...] = ()
    sizes: tuple[Any, ...] = ()


def read_pt2(file: str | os.PathLike[str] | CheckpointFile, name: str | None = None) -> ProgramFile:
    """Return the program of a name, or the only one of a file."""
    programs = read_programs(file)
    shown = ", ".join(printable(name, 40) for name in [*programs][:8])
    if name is None and len(programs) > 1:
        fix = f"({shown}): pass the name of one as method, or call jaxlstm.load_programs"
        raise CheckpointError("pt2-unsupported", f"the file holds {len(programs)} programs {fix}")
    if name is not None and name not in programs:
        raise ValueError(f"method must be a program of the file ({shown}), got {name!r}")
    return programs[name or next(iter(programs))]


def read_programs(
    file: str | os.PathLike[str] | CheckpointFile, *, check_crc: bool = True
) -> dict[str, ProgramFile]:
    """Return the graphs of exported programs and their tensors by name, without torch.

    The same elements of a storage are one array in all programs.
    """
    source = file if isinstance(file, CheckpointFile) else CheckpointFile(file)
    try:
        if source.read(0, min(2, source.size)) != b"PK" or not is_pt2(archive := Archive(source, check_crc)):
            raise CheckpointError("unknown-format", _NOT_A_PROGRAM)
        shared = Budget(source.size), dict[str, Storage](), dict[object, np.ndarray]()
        read = [(program, _read(program, *shared)) for program in open_programs(archive)]
        programs = {program.name: part for program, part in read if not program.first}
        for program, part in read:
            if program.first:
                programs[program.first] = _with_other(programs[program.first], program.name, part)
        return programs
    except CheckpointError as error:
        error.path = error.path or source.path
        raise


def _with_other(first: ProgramFile, name: str, branch: ProgramFile) -> ProgramFile:
    """Return a program with one of other sizes, or another branch of the same arguments.

    A call may run each of them.
    """
    if name.partition("@")[2].startswith(SIZES):
        if len(first.sizes) == _MOST_SIZES:
            raise malformed(name, f"not one of at most {_MOST_SIZES} programs of other sizes")
        return first._replace(sizes=(*first.sizes, branch))
    if branch.graph.in_tree != first.graph.in_tree or len(first.branches) == _MOST_BRANCHES:
        raise malformed(name, f"not one of at most {_MOST_BRANCHES} branches of a program with its arguments")
    return first._replace(branches=(*first.branches, branch))


def read_graphs(path: str) -> dict[str, Graph]:
    """Return the graphs of exported programs by name. Their tensors are not read."""
    programs = open_programs(Archive(CheckpointFile(path), check_crc=True))
    return {program.name: read_graph(program.document) for program in programs}


def _read(
    program: ProgramArchive, budget: Budget, storages: dict[str, Storage], known: dict[object, np.ndarray]
) -> ProgramFile:
    """Return a program; ``storages`` and ``known`` have what other programs of the file have read."""
    source, tensors = program.archive.source, read_tensors(program, budget, storages)
    facts: Any = {"lines": _read_lines(program), "signatures": _read_signatures(program)}
    graph = replace(read_graph(program.document), shared=_shared_tensors(tensors), **facts)
    _require_tensors(graph, recorded_types(program.document), tensors)
    arrays = _read_arrays(tensors, known)
    text = source.read(program.text.offset, program.text.size)
    example = program.pickled("sample_inputs")
    saved = b""
    if example is not None and example.size <= _LARGEST_EXAMPLE:
        saved = source.read(example.offset, example.size)
    source.check_unchanged()
    return ProgramFile(graph, arrays, text, saved)


def extra_name(kind: str, program: str) -> str:
    """Return the name of the extra file with the lines or calls of a program."""
    return kind if program == ONLY else f"{kind}@{program}"


def _extra(program: ProgramArchive, name: str) -> dict[str, Any]:
    """Return the JSON object in an extra file that `Program.save` wrote; {} in files of torch."""
    name = extra_name(name, program.name)
    entry = program.entry(name)
    return program.json(name) if entry and entry.size else {}


def _read_lines(program: ProgramArchive) -> dict[str, str]:
    """Return the lines of the model's code."""
    lines = _extra(program, LINES)
    return {key: printable(typed(line, str, LINES), 200) for key, line in lines.items()}


def _read_signatures(program: ProgramArchive) -> dict[str, CallSignature]:
    """Return the signatures of the calls of modules."""
    found: dict[str, CallSignature] = {}
    for key, record in _extra(program, CALLS).items():
        if type(record) is not list or len(record) != 2:
            raise malformed(CALLS, "a call is not a list of arguments and results")
        pairs = [typed(pair, list, CALLS) for pair in typed(record[0], list, CALLS)]
        if any(len(pair) != 2 for pair in pairs):
            raise malformed(CALLS, "an argument is not a name and a value")
        arguments = tuple((typed(name, str, CALLS), _structure(value)) for name, value in pairs)
        found[key] = CallSignature(arguments, _structure(record[1]))
    return found


def _structure(value: Any, depth: int = 0) -> Structure:
    if depth > MAX_DEPTH:
        raise CheckpointError("too-deep", f"{CALLS}: a structure has more than {MAX_DEPTH} levels")
    if type(value) is list:
        return tuple(_structure(item, depth + 1) for item in value)
    return None if value is None else typed(value, str, CALLS)


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


def _read_arrays(tensors: Mapping[str, Tensor], arrays: dict[object, np.ndarray]) -> dict[str, np.ndarray]:
    """Read all tensors; tied tensors become one array."""
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
    return tuple(sorted(tuple(group) for group in groups if len(group) > 1))
