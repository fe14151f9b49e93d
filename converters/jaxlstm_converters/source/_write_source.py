"""`write_source`: a program as Flax source and weights, two files that the user owns."""

from __future__ import annotations

import keyword
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jaxlstm._shared.files import require_path, require_replaceable, write_together
from jaxlstm._shared.safetensors import safetensors_bytes
from jaxlstm.programs.program import Program
from jaxlstm_converters.pt2._load_program import load_program
from jaxlstm_converters.pt2.layer_settings import SETTINGS_KEY, layer_settings, settings_text
from jaxlstm_converters.source._source_text import WrittenSource, source_text


def write_source(
    program_or_path: Program | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    comments: bool = False,
) -> SourceFiles:
    """Write a program as Flax NNX source, and its weights as a safetensors file beside it.

    The source has one class for each class of torch module, with torch's names of classes, attributes and
    variables. It imports only jax, flax and jaxlstm. ``jaxlstm.load_state_dict(model, "crnn.safetensors")``
    fills the model, and so do the ``.pt2`` file and a state dict of the torch module. The same program gives
    the same bytes. ``jaxlstm convert`` also checks the written model against the program.

    Args:
      program_or_path: a program, or a ``.pt2`` file for ``jaxlstm.load_program``.
      path: the file to write, such as ``crnn.py``; the weights go to ``crnn.safetensors``.
      overwrite: replace existing files.
      comments: write the lines of the torch module's code as comments.

    Returns:
      The files: their paths, the classes, and remarks about lines that no Flax user would have written, and
      about a comparison that was not possible.

    Raises:
      ValueError: ``path`` is not a file that Python can import, such as ``crnn.py``, or the program has
        hundreds of modules inside one another.
      FileExistsError: one of the files exists. Nothing is written.
      CheckpointError, ProgramError: as for ``load_program``, or the source differs from the program.
      ModuleNotFoundError: ruff, which formats the source, is not installed.

    >>> jaxlstm.write_source("crnn.pt2", "crnn.py")  # doctest: +SKIP
    """
    program = program_or_path if isinstance(program_or_path, Program) else load_program(program_or_path)
    from jaxlstm_converters.source.proof import unproven

    files = SourceFiles.of(program, path, comments=comments)
    files.require_free(overwrite=overwrite)
    if reason := unproven(files, program):
        remark = f"not compared with the program, since {reason}"
        files = replace(files, remarks=(*files.remarks, remark))
    files.write(overwrite=overwrite)
    return files


@dataclass(frozen=True)
class SourceFiles(WrittenSource):
    """The source of a model and its weights.

    Attributes:
      source, weights: the paths of the two files.
      settings: the arguments of torch's layers that their weights do not show, for the file of the weights.
    """

    source: Path
    weights: Path
    settings: str

    @classmethod
    def of(cls, program: Program, path: str | os.PathLike[str], *, comments: bool = False) -> SourceFiles:
        """Return the files of a program, which are not written yet."""
        require_path(path, "call jaxlstm.write_source(program, path)")
        source = Path(path)
        if source.suffix != ".py" or not source.stem.isidentifier() or keyword.iskeyword(source.stem):
            raise ValueError(f"path must be the file of a module, such as crnn.py, got {os.fspath(path)!r}")
        tensors = {**program.params, **program.buffers, **program.constants}
        arrays = {name: np.asarray(tensor) for name, tensor in tensors.items()}
        try:
            in_training = getattr(program.at_sizes, "in_training", None)  # of a live module only
            training = in_training() if in_training else None
            written = source_text(program.graph, arrays, program.tied, training, comments=comments)
        except RecursionError as error:
            raise ValueError("the modules of the program are nested too deeply for written source") from error
        weights, settings = source.with_suffix(".safetensors"), settings_text(layer_settings(program.graph))
        return cls(**vars(written), source=source, weights=weights, settings=settings)

    @property
    def model(self) -> str:
        """The name of the class of the model."""
        return self.class_names[-1]

    def require_free(self, *others: Path, overwrite: bool) -> None:
        """Raise unless both files and others can be written."""
        for path in (self.source, self.weights, *others):
            if not overwrite and os.path.lexists(path):
                raise FileExistsError(
                    f"{path} exists; choose another path, or pass overwrite=True to replace it"
                )
            require_replaceable(path, overwrite=True, is_ours=bool)

    def write(self, *, overwrite: bool, others: Mapping[Path, str] | None = None) -> None:
        """Write both files and other texts, all of them or none.

        Raises:
          FileExistsError: one of them exists and must not be replaced.
        """
        others = others or {}
        self.require_free(*others, overwrite=overwrite)
        metadata = {"format": "pt", SETTINGS_KEY: self.settings}
        texts = {self.source: self.text, **others}
        write_together(
            {path: [text.encode()] for path, text in texts.items()}
            | {self.weights: safetensors_bytes(self.tensors, metadata)}
        )
