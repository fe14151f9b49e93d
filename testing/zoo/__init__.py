"""Small torch models, each for a behaviour of whole models: what every way of running them is tested with."""

from dataclasses import replace

from testing.zoo import loops, packed, regions, selections, series, sound, structure, text, vision_and_series

PRACTICE = {
    name: replace(specimen, of_inputs=True, atol=5e-6 if name == "rectified text recogniser" else 2e-6)
    for theme in (vision_and_series, text, sound)
    for name, specimen in theme.SPECIMENS.items()
}
"""Models with LSTMs, of the shapes that occur in practice. The places of a grid amplify rounding."""

THEMES = {
    "loops": loops.SPECIMENS,
    "packed": packed.SPECIMENS,
    "practice": PRACTICE,
    "regions": regions.SPECIMENS,
    "selections": selections.SPECIMENS,
    "series": series.SPECIMENS,
    "structure": structure.SPECIMENS,
}
ZOO = {f"{theme}/{name}": specimen for theme, found in THEMES.items() for name, specimen in found.items()}
