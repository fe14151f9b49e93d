"""The task of the demo: restore the capital letters and punctuation marks of a text.

``strip`` takes them out and says what they were, character by character; ``restore`` puts them back.
Nothing here knows of torch or JAX.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

LETTERS = "abcdefghijklmnopqrstuvwxyz"
ALPHABET = " '-" + LETTERS
MARKS = ("", ",", ".", "?", "!", ";", ":")


class Stripped(NamedTuple):
    """A text without capitals and marks, and for each of its characters what was taken away."""

    text: str
    is_capital: list[bool]
    mark: list[int]  # index into MARKS: the mark that stood right after the character


def strip(text: str) -> Stripped:
    """``"Oh, dear!"`` becomes ``"oh dear"``, a capital at 0, and marks after 1 and 6.

    Apostrophes and hyphens stay inside words; what is no letter, space or mark of ours is dropped.
    """
    kept, is_capital, mark = "", [], []
    for position, character in enumerate(text):
        lower = character.lower()
        if character in MARKS[1:]:
            last = len(kept.rstrip()) - 1
            if last >= 0 and mark[last] == 0:
                mark[last] = MARKS.index(character)
            continue
        is_gap = character.isspace() or character == "-"
        if lower in LETTERS or (character in "'-" and _in_word(text, position)):
            kept += lower
        elif is_gap and kept and not kept.endswith(" "):
            kept += " "
        else:
            continue
        is_capital.append(character != lower)
        mark.append(0)
    return Stripped(kept, is_capital, mark)


def restore(text: str, is_capital: list[bool], mark: list[int]) -> str:
    """The inverse of :func:`strip`."""
    return "".join(
        (character.upper() if capital else character) + MARKS[after]
        for character, capital, after in zip(text, is_capital, mark, strict=True)
    )


def encode(text: str) -> list[int]:
    """Characters as indices into ALPHABET."""
    return [ALPHABET.index(character) for character in text]


def read_paragraphs(chapters: range) -> list[str]:
    """Paragraphs of the given chapters (1 to 12) of the book in ``data/alice.txt``."""
    book = (Path(__file__).parent / "data" / "alice.txt").read_text(encoding="ascii")
    by_chapter = [chapter.splitlines()[1:] for chapter in book.split("# ")[1:]]
    return [paragraph for number in chapters for paragraph in by_chapter[number - 1]]


def _in_word(text: str, position: int) -> bool:
    """Whether letters stand on both sides."""
    return text[position - 1 : position].isalpha() and text[position + 1 : position + 2].isalpha()
