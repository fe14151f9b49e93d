"""The tensors of a `.pt2` file (torch.export.save) by name, and the settings of the LSTMs of its program.

Since torch 2.9 a config in JSON maps the name of a tensor to an entry with the bytes of its storage and to
its dtype, sizes, strides and offset. Tied tensors share one entry. Up to torch 2.8 a file of torch.save
inside the archive holds the tensors.
"""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..checkpoint import Checkpoint
from ..errors import CheckpointError, describe, printable
from ..io._make_tensor import Budget, make_tensor
from ..io.files import FilePart
from ..io.storage import Storage
from ..io.tensor import DTYPES, Tensor
from ..io.zip_archive import Archive, ZipEntry
from .byteorder import is_big_endian
from .pt2_archive import ProgramArchive, open_programs

# torch._export.serde.schema.ScalarType
SCALAR_TYPES = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64",
    9: "complex32", 10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16", 28: "uint16",
    29: "float8_e4m3fn", 30: "float8_e5m2", 31: "float8_e4m3fnuz", 32: "float8_e5m2fnuz",
    33: "float8_e8m0fnu", 34: "uint32", 35: "uint64",
}  # fmt: skip
STRIDED = 7
BLOB = re.compile(r"(weight|tensor)_[0-9]{1,9}", re.ASCII)
OBJECT = re.compile(r"(custom|opaque)_obj_")
LSTMS = ("torch.ops.aten.lstm.input", "torch.ops.jaxlstm.packed_lstm.default")
FIRST_WEIGHT = "weight_ih_l0"


def read_pt2(archive: Archive, budget: Budget) -> Checkpoint:
    """Read the tensors of the programs of an archive, which share parameters and buffers."""
    checkpoint, storages = Checkpoint(archive.source.path, "pt2"), dict[str, Storage]()
    for program in open_programs(archive):
        if program.first:
            continue
        checkpoint.hints |= lstm_hints(program.document)
        names = set[str]()
        for kind, name, tensor in _tensors(program, budget, storages):
            existing = None if name in names else checkpoint.get(name)
            names.add(name)
            if existing is None or existing.identity != tensor.identity:
                is_other = existing is not None and kind == "constants"
                checkpoint.add(name_of_constant(name, program.name) if is_other else name, tensor)
    return checkpoint


def name_of_constant(name: str, program: str) -> str:
    """Return the name of a constant that differs from one of its name in another program."""
    owner, _, last = name.rpartition(".")
    return f"{owner}.{program}_{last}".lstrip(".")


def read_tensors(program: ProgramArchive, budget: Budget, storages: dict[str, Storage]) -> Checkpoint:
    """Return parameters and buffers, then constants, under their names in torch.

    ``storages`` has the entries that have been opened, also for other programs.
    """
    checkpoint = Checkpoint(program.archive.source.path, "pt2")
    for _, name, tensor in _tensors(program, budget, storages):
        checkpoint.add(name, tensor)
    return checkpoint


def _tensors(
    program: ProgramArchive, budget: Budget, storages: dict[str, Storage]
) -> Iterator[tuple[str, str, Tensor]]:
    for kind in ("weights", "constants"):
        entry = program.pickled(kind)
        is_raw = entry is None
        tensors = _raw(program, kind, budget, storages) if is_raw else _pickled(program, entry, budget)
        yield from ((kind, name, tensor) for name, tensor in tensors)


def _raw(
    program: ProgramArchive, kind: str, budget: Budget, storages: dict[str, Storage]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that are stored as bytes, by name."""
    config = program.json(f"data/{kind}/{program.name}_{kind}_config.json").get("config")
    if not isinstance(config, dict):
        raise CheckpointError("pt2-malformed", f"the config of the {kind} is {describe(config)}")
    big_endian = is_big_endian(program.archive, program.root)
    for name, entry in config.items():
        path = f"{program.root}data/{kind}/{_payload(name, entry)}"
        if path not in storages:
            storages[path] = program.archive.storage(path, big_endian)
        yield name, _tensor(name, entry["tensor_meta"], storages[path], budget)


def _pickled(program: ProgramArchive, entry: ZipEntry, budget: Budget) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in a file of torch.save inside the archive, by name."""
    # Imported here because files of torch 2.9 and later do without the reader of pickles.
    from .torch_zip import is_torchscript, read_torch_zip, root_folder

    source = program.archive.source
    program.archive.verify(entry)
    try:
        inner = Archive(FilePart(source, entry.offset, entry.size), program.archive.checks_crc)
        root = root_folder(inner)
        if is_torchscript(inner, root):
            raise CheckpointError("zip-layout", "the tensors are in a TorchScript archive")
        tensors = read_torch_zip(inner, root, budget)
    except CheckpointError as error:
        if error.offset is not None:
            error.offset += entry.offset
        raise
    for storage in {id(tensor.storage): tensor.storage for tensor in tensors.values()}.values():
        if isinstance(storage.source, FilePart):  # and not in memory
            storage.source, storage.offset = source, storage.offset + entry.offset
    yield from tensors.items()


def scalar_type(code: Any) -> np.dtype[Any]:
    """Return the dtype with this number in torch's schema."""
    name = SCALAR_TYPES.get(code) if type(code) is int else None
    if name is None:
        raise CheckpointError("pt2-malformed", f"a dtype is {describe(code)}, expected a known number")
    if name not in DTYPES:
        raise CheckpointError("unsupported-tensor", f"torch.{name} is not supported")
    return DTYPES[name]


def _payload(name: str, entry: Any) -> str:
    """Return the file name of the bytes of a tensor."""
    label = repr(printable(name))
    if not isinstance(entry, dict) or not {"path_name", "use_pickle", "tensor_meta"} <= entry.keys():
        raise CheckpointError("pt2-malformed", f"the entry of {label} lacks path_name or tensor_meta")
    path = entry["path_name"]
    if type(path) is str and OBJECT.match(path):
        raise CheckpointError("pt2-unsupported", f"{label} is a custom object, which only torch can read")
    if entry["use_pickle"] is not False:
        raise CheckpointError("pt2-unsupported", f"{label} is a pickled subclass; export plain tensors")
    if type(path) is not str or not BLOB.fullmatch(path):
        message = f"the bytes of {label} are in {describe(path)}, expected a name such as 'weight_0'"
        raise CheckpointError("storage-key", message)
    return path


def _tensor(name: str, meta: Any, storage: Storage, budget: Budget) -> Tensor:
    label = repr(printable(name))
    if not isinstance(meta, dict):
        raise CheckpointError("pt2-malformed", f"the tensor_meta of {label} is {describe(meta)}")
    if meta.get("layout") != STRIDED:
        message = f"{label} has layout {describe(meta.get('layout'))}, expected a dense tensor"
        raise CheckpointError("unsupported-tensor", message)
    dtype = scalar_type(meta.get("dtype"))
    if storage.nbytes % dtype.itemsize:
        message = f"the storage of {label} has {storage.nbytes} bytes, which {dtype.name} does not divide"
        raise CheckpointError("storage-size", message, storage.offset)
    return make_tensor(
        storage,
        dtype,
        _integers(label, meta.get("sizes")),
        budget=budget,
        strides=_integers(label, meta.get("strides")),
        offset=_integer(label, meta.get("storage_offset")),
    )


def _integers(label: str, values: Any) -> list[Any]:
    if type(values) is not list:
        raise CheckpointError("pt2-malformed", f"sizes or strides of {label} are {describe(values)}")
    return [_integer(label, value) for value in values]


def _integer(label: str, value: Any) -> Any:
    """Return n of {"as_int": n}; `make_tensor` checks n."""
    if not isinstance(value, dict) or value.keys() != {"as_int"}:
        raise CheckpointError("pt2-malformed", f"a size, stride or offset of {label} is not an integer")
    return value["as_int"]


def lstm_hints(document: Any) -> dict[str, dict[str, Any]]:
    """Return prefix -> {"batch_first": ..., "dropout": ...} of each LSTM that the program calls.

    Parts of the document that do not have the expected form are skipped: reading the tensors of a file does
    not require a valid graph.
    """
    match document:
        case {"graph_module": {"signature": {"input_specs": list(specs)}, "graph": {"nodes": list(nodes)}}}:
            pass
        case _:
            return {}
    hints, names = {}, {}
    for spec in specs:
        match spec:
            case {"parameter": {"arg": {"name": str(value)}, "parameter_name": str(name)}}:
                names[value] = name
    for node in nodes:
        match dict(_arguments(node)):
            case {
                "params": {"as_tensors": [{"name": str(first)}, *_]},
                "batch_first": {"as_bool": bool(batch_first)},
                "dropout": {"as_float": float(dropout)},
            } if names.get(first, "").endswith(FIRST_WEIGHT):
                prefix = names[first].removesuffix(FIRST_WEIGHT)
                hints[prefix] = {"batch_first": batch_first, "dropout": dropout}
    return hints


def _arguments(node: Any) -> Iterator[tuple[str, Any]]:
    """Yield the arguments of a call of an LSTM by name."""
    match node:
        case {"target": target, "inputs": list(inputs)} if target in LSTMS:
            for item in inputs:
                match item:
                    case {"name": str(name), "arg": value}:
                        yield name, value
