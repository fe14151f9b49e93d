"""The task of the demo: restore the capital letters and punctuation marks of a text.

``strip`` removes them and returns them as labels of the characters; ``restore`` puts them back. This module
uses neither torch nor JAX.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

LETTERS = "abcdefghijklmnopqrstuvwxyz"
ALPHABET = " '-" + LETTERS
MARKS = ("", ",", ".", "?", "!", ";", ":")


class Stripped(NamedTuple):
    """A text without capitals and marks, and the labels of its characters."""

    text: str
    is_capital: list[bool]
    mark: list[int]  # index into MARKS of the mark right after the character


def strip(text: str) -> Stripped:
    """Remove capitals and marks.

    ``"Oh, dear!"`` becomes ``"oh dear"`` with a capital at 0 and marks after 1 and 6. Apostrophes and hyphens
    inside words are kept. All other characters except letters, spaces and ``MARKS`` are dropped.
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
    """Return the text with capitals and marks: the inverse of `strip`."""
    return "".join(
        (character.upper() if capital else character) + MARKS[after]
        for character, capital, after in zip(text, is_capital, mark, strict=True)
    )


def encode(text: str) -> list[int]:
    """Return the characters as indices into ALPHABET."""
    return [ALPHABET.index(character) for character in text]


def read_paragraphs(chapters: range) -> list[str]:
    """Return the paragraphs of the given chapters (1 to 12) of ``data/alice.txt``."""
    book = (Path(__file__).parent / "data" / "alice.txt").read_text(encoding="ascii")
    by_chapter = [chapter.splitlines()[1:] for chapter in book.split("# ")[1:]]
    return [paragraph for number in chapters for paragraph in by_chapter[number - 1]]


def _in_word(text: str, position: int) -> bool:
    """Return True between two letters."""
    return text[position - 1 : position].isalpha() and text[position + 1 : position + 2].isalpha()
