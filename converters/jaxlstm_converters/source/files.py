"""`SourceFiles`: the source of a program and its weights, as two files."""

from __future__ import annotations

import keyword
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxlstm._shared.files import require_path, require_replaceable, write_together
from jaxlstm._shared.safetensors import safetensors_bytes
from jaxlstm.programs.program import Program
from jaxlstm_converters.checkpoint.formats.pt2_archive import ONLY
from jaxlstm_converters.layer_kinds import SETTINGS_KEY, settings_text
from jaxlstm_converters.pt2.layer_settings import layer_settings
from jaxlstm_converters.source._source_text import WrittenSource, source_text
from jaxlstm_converters.source.syntax import names


def methods_of(programs: Program | Mapping[str, Program]) -> dict[str, Program]:
    """Return programs by the names of their methods. A single program of a file is ``forward``."""
    if isinstance(programs, Program) or [*programs] == [ONLY]:
        programs = {"forward": programs if isinstance(programs, Program) else programs[ONLY]}
    return {**programs}


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
    def of(
        cls,
        programs: Program | Mapping[str, Program],
        path: str | os.PathLike[str],
        *,
        comments: bool = False,
    ) -> SourceFiles:
        """Return the files of a program, or of methods of one module by name, which are not written yet."""
        programs = methods_of(programs)
        require_path(path, "call jaxlstm.write_source(program, path)")
        source = Path(path)
        if source.suffix != ".py" or not source.stem.isidentifier() or keyword.iskeyword(source.stem):
            better = names.valid_name(source.stem) + ".py"
            raise ValueError(
                f"path must be a file that Python can import, such as {better}, got {os.fspath(path)!r}"
            )
        try:
            written = source_text(programs, comments=comments)
        except RecursionError as error:
            raise ValueError("the modules of the program are nested too deeply for written source") from error
        weights, settings = source.with_suffix(".safetensors"), dict[str, Any]()
        for program in programs.values():
            settings |= layer_settings(program.graph)
        return cls(**vars(written), source=source, weights=weights, settings=settings_text(settings))

    def __repr__(self) -> str:
        return (
            f"SourceFiles({str(self.source)!r}, {str(self.weights)!r}, class_names={self.class_names}, "
            f"remarks={self.remarks})"
        )

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
