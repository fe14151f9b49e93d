"""The layers of both models: their outputs in one run, compared in torch's order."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from jaxlstm.check.cases.results import LayerRecord
from jaxlstm.check.criteria.layer_distance import EQUAL, distance, shape_of
from jaxlstm.check.report.item import LayerDifference
from jaxlstm.check.subjects.module_names import ModuleNames
from jaxlstm.check.subjects.pairing import Pairing


def compare_layers(
    ours: Sequence[LayerRecord],
    theirs: Sequence[LayerRecord],
    names: ModuleNames,
    pairing: Pairing,
    limits: Mapping[int, float],
) -> list[LayerDifference]:
    """Compare the outputs of the layers that correspond, in torch's order of calls.

    Layers correspond if their paths do, or else if their parameters have the same values. Layers of torch
    without a counterpart are left out. ``limits`` holds the largest distance of equal outputs by position in
    ``theirs``; the default is ``EQUAL``.
    """
    by_path: dict[str, list[LayerRecord]] = {}
    for record in ours:
        by_path.setdefault(record.path, []).append(record)
    partners, calls = _partners(pairing), dict[str, int]()
    found = []
    for position, record in enumerate(theirs):
        calls[record.path] = call = calls.get(record.path, -1) + 1
        candidates = [path for path in by_path if names.match(path, record.path)] if record.path else [""]
        candidates += partners.get(record.path, ())
        records = [by_path[p][call] for p in candidates if p in by_path and len(by_path[p]) > call]
        if not records:
            continue
        compared = [(distance(r.outputs, record.outputs, record.ragged), r) for r in records]
        outputs, ours_record = min(compared, key=lambda pair: pair[0])
        found.append(
            LayerDifference(
                theirs=record.path,
                ours=ours_record.path,
                kind=record.kind,
                shape=shape_of(record.outputs),
                ours_shape=shape_of(ours_record.outputs),
                inputs=distance(ours_record.inputs, record.inputs, record.ragged),
                outputs=outputs,
                limit=limits.get(position, EQUAL),
            )
        )
    return found


def _partners(pairing: Pairing) -> Mapping[str, Sequence[str]]:
    """Return for each torch module the paths of ours whose parameters hold its values, and their parents."""
    paths: dict[str, list[list[str]]] = {}
    for name, choices in pairing.choices.items():
        if len(choices) == 1:
            for layout in choices[0]:
                paths.setdefault(layout.theirs.rpartition(".")[0], []).append(name.split(".")[:-1])
    partners = {}
    for module, found in paths.items():
        same = itertools.takewhile(lambda steps: len(set(steps)) == 1, zip(*found, strict=False))
        common = [steps[0] for steps in same]
        partners[module] = [".".join(common[:length]) for length in range(len(common), 0, -1)]
    return partners
