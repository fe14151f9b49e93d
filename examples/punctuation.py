"""The task of the demo: restore the capital letters and punctuation marks of a text.

``strip`` removes them, and ``restore`` puts predicted ones in. This module uses neither torch nor JAX.
"""

from pathlib import Path

LETTERS = "abcdefghijklmnopqrstuvwxyz"
ALPHABET = " '-" + LETTERS
MARKS = ("", ",", ".", "?", "!", ";", ":")


def strip(text: str) -> str:
    """Remove capitals and marks: ``"Oh, dear!"`` becomes ``"oh dear"``.

    Apostrophes and hyphens inside words are kept. All other characters except letters and spaces are dropped.
    """
    kept = ""
    for position, character in enumerate(text):
        lower = character.lower()
        if lower in LETTERS or (character in "'-" and _in_word(text, position)):
            kept += lower
        elif (character.isspace() or character == "-") and kept and not kept.endswith(" "):
            kept += " "
    return kept


def restore(text: str, is_capital: list[bool], mark: list[int]) -> str:
    """Return the text with capitals, and after each character the mark with an index in ``MARKS``."""
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
