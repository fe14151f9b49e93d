"""Small torch models, each for a behaviour of whole models: what every way of running them is tested with."""

from testing.zoo import loops, packed, regions, selections, series, structure

THEMES = {
    "loops": loops.SPECIMENS,
    "packed": packed.SPECIMENS,
    "regions": regions.SPECIMENS,
    "selections": selections.SPECIMENS,
    "series": series.SPECIMENS,
    "structure": structure.SPECIMENS,
}
ZOO = {f"{theme}/{name}": specimen for theme, found in THEMES.items() for name, specimen in found.items()}
