"""Images of short texts, drawn with a 5x7 pixel font: the data of the text recogniser."""

import re

import numpy as np

HEIGHT, WIDTH = 16, 64
# Each glyph is five columns of seven pixels; the lowest bit is the top pixel.
_FONT = """
0 3E5149453E  1 00427F4000  2 4261514946  3 2141454B31  4 1814127F10  5 2745454539  6 3C4A494930
7 0171090503  8 3649494936  9 064949291E  A 7E1111117E  B 7F49494936  C 3E41414122  D 7F4141221C
E 7F49494941  F 7F09090901  G 3E4149497A  H 7F0808087F  I 00417F4100  J 2040413F01  K 7F08142241
L 7F40404040  M 7F020C027F  N 7F0408107F  O 3E4141413E  P 7F09090906  Q 3E4151215E  R 7F09192946
S 4649494931  T 01017F0101  U 3F4040403F  V 1F2040201F  W 3F4038403F  X 6314081463  Y 0708700807
Z 6151494543
"""
_COLUMNS = dict(re.findall(r"(\w) (\w{10})", _FONT))
ALPHABET = "".join(_COLUMNS)
CLASSES = len(ALPHABET) + 1  # class 0 is the blank of CTC
_GLYPHS = {
    character: np.array(
        [[byte >> row & 1 for byte in bytes.fromhex(columns)] for row in range(7)], np.float32
    )
    for character, columns in _COLUMNS.items()
}


def draw(text: str, rng: np.random.Generator, slant: float = 0.0) -> np.ndarray:
    """Return an image (16, 64) of dark to light text on noise.

    Args:
      text: at most six characters of ``ALPHABET``.
      rng: draws positions, brightness and noise.
      slant: pixels by which a row is moved to the right of the row below it.
    """
    image = np.zeros((HEIGHT, WIDTH), np.float32)
    top, left = rng.integers(1, HEIGHT - 8), rng.integers(1, 8)
    brightness = rng.uniform(0.6, 1.0)
    for character in text:
        for row, pixels in enumerate(_GLYPHS[character]):
            start = left + round(slant * (6 - row))
            image[top + row, start : start + 5] += brightness * pixels
        left += rng.integers(6, 9)
    return np.clip(image + rng.normal(0, 0.15, image.shape), 0, 1).astype(np.float32)


def batch(
    size: int, rng: np.random.Generator, slant: float = 0.0
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return images (B, 1, 16, 64), classes (B, 6) padded with 0, and texts of three to six characters."""
    lengths = rng.integers(3, 7, size)
    texts = ["".join(rng.choice(list(ALPHABET), length)) for length in lengths]
    labels = np.zeros((size, 6), np.int32)
    for row, text in zip(labels, texts, strict=True):
        row[: len(text)] = [ALPHABET.index(character) + 1 for character in text]
    return np.stack([draw(text, rng, slant) for text in texts])[:, None], labels, texts


def decode(logits: np.ndarray) -> list[str]:
    """Return the texts of logits (B, T, classes): the best class of each step, without repeats and blanks."""
    return [
        "".join(ALPHABET[k - 1] for k, before in zip(best, [0, *best[:-1]], strict=True) if k and k != before)
        for best in np.argmax(logits, axis=-1).tolist()
    ]


def accuracy(logits: np.ndarray, texts: list[str]) -> float:
    """Return the share of images whose whole text is right."""
    return float(np.mean([read == text for read, text in zip(decode(logits), texts, strict=True)]))
