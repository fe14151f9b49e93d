"""``jaxlstm convert MODEL.pt2 -o MODEL.py``: write Flax source and weights, and prove them."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxlstm._shared.progress import progress_bar
from jaxlstm.cli.options import refuse_options, require_output, takes_program

if TYPE_CHECKING:
    from jaxlstm_converters.source._write_source import SourceFiles
    from jaxlstm_converters.source.proof import Proof


def run_source(args: argparse.Namespace) -> int:
    """Write the files and compare the model with the program: return 0 if they are equal, 1 if not."""
    from jaxlstm_converters.pt2._load_program import load_program
    from jaxlstm_converters.source._write_source import SourceFiles
    from jaxlstm_converters.source.proof import example_of, prove, pytest_text

    if not takes_program(args):
        raise ValueError(f"-o {args.output}: source is written of a .pt2 program, and not with --prefix")
    refuse_options(args, "format", "batch_first", "dropout")
    require_output(args.output, [args.checkpoint])
    program = load_program(args.checkpoint)
    files = SourceFiles.of(program, args.output, comments=args.comments)
    require_output(files.weights, [args.checkpoint])
    others = {}
    if args.test:
        relative = os.path.relpath(args.checkpoint, files.source.parent)
        test = files.source.with_name(f"test_{files.source.name}")
        others[test] = pytest_text(files, Path(relative).as_posix(), example_of(program))
    files.write(overwrite=args.overwrite, others=others)
    with progress_bar() as progress:
        proof = prove(files, program, progress)
    if args.json:
        print(json.dumps(_as_json(files, proof), indent=2))
    else:
        print("\n".join(_summary(files, proof, list(others))))
    return 0 if proof.holds else 1


def _summary(files: SourceFiles, proof: Proof, others: list[Path]) -> Iterator[str]:
    """Yield the lines about the files, remarks and the verdict."""
    classes = ", ".join(reversed(files.class_names))
    idiom = "every operator in Flax or jax.numpy"
    if files.remarks:
        idiom = f"{len(files.remarks)} remark{'s' * (len(files.remarks) > 1)}"
    texts = {
        files.source.name: f"{classes}: {len(files.text.splitlines())} lines; {idiom}",
        files.weights.name: f"{len(files.tensors)} tensors, torch's names",
        **{path.name: "repeats the proof with pytest" for path in others},
        "HOLDS" if proof.holds else "DOES NOT HOLD": proof.verdict if proof.holds else "",
    }
    width = max(map(len, texts))
    for name, text in texts.items():
        yield f"{name:{width}} {text}".rstrip()
        if name == files.source.name:
            yield from (f"  {remark}" for remark in files.remarks)
    if not proof.holds:
        yield from (f"  {line}" for line in proof.lines)


def _as_json(files: SourceFiles, proof: Proof) -> dict[str, Any]:
    return {
        "source": str(files.source),
        "weights": str(files.weights),
        "classes": list(files.class_names),
        "lines": len(files.text.splitlines()),
        "tensors": len(files.tensors),
        "remarks": list(files.remarks),
        "holds": proof.holds,
        "sizes": proof.sizes,
        "report": json.loads(proof.report.to_json()) if proof.report is not None else proof.problem,
    }
