"""Fuzzes the checkpoint reader by coverage, with atheris (`pip install atheris`).

    python -m tests.checkpoint.fuzz_atheris [CORPUS] [-max_total_time=SECONDS] [...]

The arguments are libFuzzer's. Without a corpus it starts from the seeds that are one file. A
mutation is one of `fuzz_mutate`, or one of libFuzzer's own; an input that breaks a promise of the
reader ends the run, and stays as `crash-...` in the working directory.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path
from random import Random

import atheris

with atheris.instrument_imports(include=["jaxlstm_converters"]):  # type: ignore[attr-defined]
    from .fuzz_child import Mutant, outcome

from .fuzz_mutate import mutate
from .fuzz_seeds import seeds

MEMORY_MB = 512  # of the whole process, coverage counters and all


def main() -> None:
    """Run until a finding, or for as long as the arguments say."""
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "dropout=.* has no effect")
    warnings.filterwarnings("ignore", module="pickletools")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)

        def one(raw: bytes) -> None:
            case = Mutant("", {"file": raw}, "file", True)
            outcome(case, case.write(folder))

        def custom(raw: bytes, size: int, seed: int) -> bytes:
            rng = Random(seed)
            made = mutate(rng, raw) if rng.random() < 0.5 else atheris.Mutate(raw, size)
            return made[:size]

        arguments = sys.argv
        if not any(Path(argument).is_dir() for argument in arguments[1:]):
            corpus = folder / "corpus"
            corpus.mkdir()
            for seed in seeds():
                if seed.opened == "file":
                    (corpus / seed.name).write_bytes(seed.files["file"])
            arguments = [*arguments, str(corpus)]
        limits = ["-max_len=65536", "-timeout=20", f"-rss_limit_mb={MEMORY_MB}"]
        atheris.Setup([*arguments, *limits], one, custom_mutator=custom)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
