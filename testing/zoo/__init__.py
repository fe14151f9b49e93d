"""Small torch models, each for a behaviour of whole models: what every way of running them is tested with."""

from importlib import import_module

from testing.zoo.specimen import Specimen

_NAMES = "loops packed regions selections series sound statements structure text vision_and_series"
THEMES: dict[str, dict[str, Specimen]] = {
    name: import_module(f"testing.zoo.{name}").SPECIMENS for name in _NAMES.split()
}
PRACTICE = {**THEMES["vision_and_series"], **THEMES["text"], **THEMES["sound"]}
"""Models with LSTMs, of the shapes that occur in practice. The places of a grid amplify rounding."""
ZOO = {f"{theme}/{name}": specimen for theme, found in THEMES.items() for name, specimen in found.items()}
