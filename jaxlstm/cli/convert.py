"""``jaxlstm convert``: an LSTM to another format, or a ``.pt2`` program to Flax source, with a proof."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxlstm._shared.progress import progress_bar
from jaxlstm.cli.options import (
    add_command,
    add_script_options,
    add_unrecorded,
    checkpoint_files,
    load_selected,
    refuse_options,
    require_output,
    takes_program,
    takes_script,
    warn_of_assumptions,
)

if TYPE_CHECKING:
    from jaxlstm_converters.source._write_source import SourceFiles
    from jaxlstm_converters.source.proof import Proof


def add_parser(commands: Any) -> None:
    """Add the command's parser."""
    parser = add_command(
        commands,
        "convert",
        run,
        help="convert one LSTM of a checkpoint to another file format, or a .pt2 program to Flax source",
        description="Convert one LSTM of a checkpoint to safetensors or PyTorch. "
        "The file is read back and compared bit for bit. If OUT ends in .py, write a .pt2 program, or with "
        "--input a module of a TorchScript archive, as Flax source and its weights as safetensors; the "
        "source is run and compared with the program. "
        "Exit status: 0 if all bits are equal, or source and program are, 1 if not, 2 for bad input.",
        output="the file to write; it must not be FILE",
    )
    add_unrecorded(parser)
    add_script_options(parser)
    parser.add_argument(
        "--format",
        choices=("safetensors", "torch"),
        help="the format of OUT (default: by its suffix: .safetensors, .pt or .pth)",
    )
    parser.add_argument(
        "--comments", action="store_true", help="in source, write the lines of the torch code as comments"
    )
    parser.add_argument(
        "--test", action="store_true", help="also write test_OUT.py, which repeats the comparison with pytest"
    )


def run(args: argparse.Namespace) -> int:
    """Convert to source or to a file of weights."""
    if args.output.endswith(".py"):
        return run_source(args)
    if args.comments or args.test:
        raise ValueError(f"--comments and --test write source: -o must end in .py, got {args.output}")
    return _run_weights(args)


def _format_of(output: Path) -> str:
    from jaxlstm_converters.write._save import format_of

    try:
        return format_of(output)
    except ValueError as error:
        raise ValueError(f"{error}; .py writes the source of a .pt2 program") from None


def _run_weights(args: argparse.Namespace) -> int:
    """Write the file, read it back and compare: return 0 if every bit is the same, 1 if not."""
    import numpy as np

    from jaxlstm.layer.config import config_to_dict
    from jaxlstm_converters.lstm._load import read_lstm
    from jaxlstm_converters.write._save import save

    output = Path(args.output)
    form = args.format or _format_of(output)
    require_output(output, checkpoint_files(args.checkpoint))
    with progress_bar() as progress:
        selected = load_selected(args, progress)
        params, config = selected.params, selected.config
        options = {"overwrite": args.overwrite, "assumed": selected.unrecorded, "progress": progress}
        save(output, params, config, format=form, **options)
        read_params, read_config, *_ = read_lstm(output, progress=progress)
    warn_of_assumptions(args, selected)
    bit_exact = read_config == config and all(
        read_params[name].dtype == array.dtype
        # As integers, NaN equals NaN and -0 differs from 0.
        and np.array_equal(read_params[name].view(f"u{array.itemsize}"), array.view(f"u{array.itemsize}"))
        for name, array in params.items()
    )
    report = {
        "output": str(output),
        "format": form,
        "config": config_to_dict(config, selected.unrecorded),
        "parameters": sum(array.size for array in params.values()),
        "bit_exact": bit_exact,
    }
    verdict = "read back: all bits equal" if bit_exact else "READ BACK: BITS DIFFER"
    text = f"{output}: {form}, {report['parameters']} parameters of {config}\n{verdict}"
    print(json.dumps(report, indent=2) if args.json else text)
    return 0 if bit_exact else 1


def run_source(args: argparse.Namespace) -> int:
    """Write the files and compare the model with the program: return 0 if they are equal, 1 if not."""
    from jaxlstm_converters.pt2._load_program import load_program, load_programs
    from jaxlstm_converters.source.files import SourceFiles, methods_of
    from jaxlstm_converters.source.proof import example_of, prove
    from jaxlstm_converters.source.pytest_text import pytest_text

    is_script = takes_script(args)
    if not is_script and not takes_program(args):
        problem = "not with --prefix" if args.prefix else f"got {args.checkpoint}"
        raise ValueError(
            f"-o {args.output}: source is written from a .pt2 program, {problem}. To make one in Python: "
            'jaxlstm.from_module(model, (example,)).save("model.pt2"). A TorchScript archive needs --input'
        )
    refuse_options(args, "format", "batch_first", "dropout")
    require_output(args.output, [args.checkpoint])
    if is_script:
        from jaxlstm_converters.torchscript.example import script_program

        refuse_options(args, "test")
        programs, _ = script_program(args.checkpoint, args.submodule, args.method, args.input)
    elif args.method:
        programs = {args.method: load_program(args.checkpoint, method=args.method)}
    else:
        programs = load_programs(args.checkpoint)
    files, methods = SourceFiles.of(programs, args.output, comments=args.comments), methods_of(programs)
    require_output(files.weights, [args.checkpoint])
    extra_files = {}
    if args.test:
        relative = os.path.relpath(args.checkpoint, files.source.parent)
        test = files.source.with_name(f"test_{files.source.name}")
        relative = Path(relative).as_posix()
        if len(methods) > 1 or args.method:
            raise ValueError(f"--test repeats the proof of a file with one program, got {args.checkpoint}")
        ((_, program),) = methods.items()
        extra_files[test] = pytest_text(files, relative, example_of(program), program.graph)
    files.write(overwrite=args.overwrite, others=extra_files)
    with progress_bar() as progress:
        proofs = {n: prove(files, p, progress, method=files.methods[n]) for n, p in methods.items()}
    text = "\n".join(_summary(files, proofs, list(extra_files)))
    print(json.dumps(_as_json(files, proofs), indent=2) if args.json else text)
    return 0 if all(proof.holds for proof in proofs.values()) else 1


def _summary(files: SourceFiles, proofs: dict[str, Proof], extra_files: list[Path]) -> Iterator[str]:
    """Yield the lines about the files, remarks and the verdict."""
    classes = ", ".join(reversed(files.class_names))
    idiom = "every operator in Flax or jax.numpy"
    if files.remarks:
        idiom = f"{len(files.remarks)} remark{'s' * (len(files.remarks) > 1)}"
    texts = {
        files.source.name: f"{classes}: {len(files.text.splitlines())} lines; {idiom}",
        files.weights.name: f"{len(files.tensors)} tensors, torch's names",
        **{path.name: "repeats the proof with pytest" for path in extra_files},
    }
    verdicts = {name: "HOLDS" if proof.holds else "DOES NOT HOLD" for name, proof in proofs.items()}
    width = max(map(len, (*texts, *verdicts.values())))
    for name, text in texts.items():
        yield f"{name:{width}} {text}"
        if name == files.source.name:
            yield from (f"  {remark}" for remark in files.remarks)
    for name, proof in proofs.items():
        method = f"{name}: " if len(proofs) > 1 else ""
        yield f"{verdicts[name]:{width}} {method}{proof.verdict if proof.holds else ''}".rstrip(": ")
        if not proof.holds:
            yield from (f"  {line}" for line in proof.lines)


def _as_json(files: SourceFiles, proofs: dict[str, Proof]) -> dict[str, Any]:
    verdicts = {
        name: {
            "holds": proof.holds,
            "sizes": proof.sizes,
            "report": json.loads(proof.report.to_json()) if proof.report is not None else proof.problem,
        }
        for name, proof in proofs.items()
    }
    return {
        "source": str(files.source),
        "weights": str(files.weights),
        "classes": list(files.class_names),
        "lines": len(files.text.splitlines()),
        "tensors": len(files.tensors),
        "remarks": list(files.remarks),
        **(verdicts.popitem()[1] if len(verdicts) == 1 else {"methods": verdicts}),
    }
