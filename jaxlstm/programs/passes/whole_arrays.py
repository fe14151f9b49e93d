"""Whole arrays instead of their elements at a mask, as in ``x[mask]``, where these go back or are added up.

``jit`` does not know the number of the elements. ``y[mask] = x[mask]`` is ``where(mask, x, y)``, and the mean
of ``x[mask]`` is the sum of ``where(mask, x, 0)``, divided by the sum of the mask. A function of the elements
takes ``where(mask, x, 1)``: other elements reach neither results nor gradients, not even as NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jaxlstm.programs.graph.graph import Graph, Node, TensorType, Value, same_sizes
from jaxlstm.programs.graph.rewrite import Site, rewrite
from jaxlstm.programs.graph.values import live_graph, results_of, uses_of, values_in, with_arguments
from jaxlstm.programs.passes.loop_copies import SLICE
from jaxlstm.programs.passes.packed_lengths import ITEMS
from jaxlstm.programs.passes.selected_elements import INDEX, SELECT, Selected, Selections, masks_of

_SUM_ALL, _SUM_DIM = "aten.sum.default", "aten.sum.dim_IntList"
_FINITE = {"neg", "abs", "mul", "add", "sub", "square", "relu", "tanh", "sigmoid", "detach", "to", "clone"}
_FINITE |= {"fill", "copy"}
"""Elementwise operators whose results and derivatives are finite for all numbers of moderate size."""
_FINITE_AT_1 = _FINITE | {"exp", "log", "log1p", "sqrt", "rsqrt", "reciprocal", "div", "pow", "softplus"}
_LOSSES = {"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy_with_logits"}
_REDUCED = {_SUM_ALL: _SUM_ALL, "aten.mean.default": _SUM_ALL, _SUM_DIM: _SUM_DIM, "aten.mean.dim": _SUM_DIM}
"""Reduction -> the sum of the same axes."""
_OF_CLASSES = ("cross_entropy_loss", "nll_loss_nd")
_MEAN = 1


def whole_arrays(graph: Graph, types: Mapping[str, TensorType]) -> Graph:
    """Return the graph without needless selections; ``types`` has the types of placeholders."""
    if not any(node.op in (SELECT, INDEX, *ITEMS) for node in graph.nodes):
        return graph
    rule = _WholeArrays(graph)
    changed = rewrite(graph, rule, types=types)
    unneeded = {*rule.selected, *rule.broadcast, *rule.made}
    return live_graph(changed, lambda node: unneeded.isdisjoint((*results_of(node), node.name)))


class _WholeArrays(Selections):
    """The rule."""

    def __call__(self, node: Node, site: Site) -> Sequence[Node] | None:
        kind = node.op.split(".")[1]
        self.equal.note(node)
        if node.op in (SELECT, INDEX):
            self.note(node, site)
        elif kind == "_assert_scalar":
            return () if self.always_holds(node, site) else [with_arguments(node, self._twin)]
        elif node.op in ITEMS or node.op.startswith(("_operator.", "math.", "torch.sym")):
            return self.note_number(node, site)
        elif node.op == SLICE and self.places(node, site):
            return self.note_slice(node, site)
        elif kind == "slice_scatter":
            return self._put_slice_back(node, site)
        elif kind in ("masked_scatter", "index_put", "_unsafe_index_put"):
            return self._put_back(node, site)
        elif not self.selected.keys().isdisjoint(uses_of(node)):
            return self._changed(node, kind, site)
        return None

    def _changed(self, node: Node, kind: str, site: Site) -> Sequence[Node] | None:
        """Return the nodes for a user of selected elements."""
        if node.op in _REDUCED:
            return self._reduced(node, self.selected[next(uses_of(node))], site)
        if kind == "broadcast_tensors":
            parts = [self.selected.get(name) for name in uses_of(node)]
            is_one = all(part and parts[0] and self.are_together(part, parts[0], site) for part in parts)
            self.selected |= {
                name: part for name, part in zip(results_of(node), parts, strict=True) if part and is_one
            }
        if kind in ("expand", "view", "reshape") and self.is_own_size(node, site):
            self.selected[results_of(node)[0]] = self.selected[next(uses_of(node))]
        elif kind in ("view", "reshape"):
            return self._of_known_size(node, site)
        if kind in _LOSSES and node.kwargs.get("reduction", _MEAN):
            return self._loss(node, site)
        if kind in _OF_CLASSES and node.kwargs.get("reduction", _MEAN):
            return self._loss_of_classes(node, site)
        if kind == "sym_size":
            return self.note_count(node, site)
        return self._elementwise(node, kind, site) if kind in _FINITE_AT_1 else None

    def _twin(self, value: Value) -> Value:
        """Return the number that takes the place of another in a condition."""
        return self.twins.get(value.name, value)

    def _put_slice_back(self, node: Node, site: Site) -> list[Node] | None:
        """Return nodes for selected elements that are written at the same bounds."""
        source, base = node.kwargs["src"], node.kwargs["self"]
        part = self.selected.get(getattr(source, "name", ""))
        places, own = self.places(node, site), self.type_of(base, site)
        if part is None or places is None or own is None or self.made_by.get(places[0]) != part.mask:
            return None
        type_ = site.types[part.array.name]
        if (
            part.axis != places[2]
            or part.covered != 1
            or type_.dtype != own.dtype
            or not same_sizes(type_, own)
        ):
            return None
        nodes, mask = self._mask(node, part, site)
        kwargs = {"condition": mask, "self": part.array, "other": base}
        return [*nodes, replace(node, op="aten.where.self", kwargs=kwargs)]

    def _mask(self, node: Node, part: Selected, site: Site) -> tuple[list[Node], Value]:
        """Return the mask with as many axes as the array, and the nodes that make it."""
        nodes, mask, type_ = list[Node](), part.mask, site.types[part.mask.name]
        for _ in range(len(site.types[part.array.name].shape) - part.axis - part.covered):
            rank = len(type_.shape)
            type_ = type_.with_axis(rank, 1, inserted=True)
            nodes.append(self.add(node, site, "aten.unsqueeze.default", type_, self=mask, dim=rank))
            mask = Value(nodes[-1].name)
        return nodes, mask

    def _where(self, node: Node, part: Selected, site: Site, other: Any) -> tuple[list[Node], Value]:
        """Return the array with a number for the other elements, and the nodes that make it."""
        key = *part[:3], other, node.with_gradient, [call.key for call in node.calls]
        if (known := self.made_by.get(str(key))) is not None:
            return [], known
        own = site.types[part.array.name]
        nodes, mask = self._mask(node, part, site)
        kwargs = {"condition": mask, "self": part.array, "other": bool(other) if own.dtype == bool else other}
        nodes.append(self.add(node, site, "aten.where.ScalarOther", own, **kwargs))
        self.made_by[str(key)] = made = Value(nodes[-1].name)
        return nodes, made

    def _put_back(self, node: Node, site: Site) -> list[Node] | None:
        """Return nodes for selected elements that are written at an equal mask."""
        is_scatter = "source" in node.kwargs
        source: Any = node.kwargs["source" if is_scatter else "values"]
        base: Any = node.kwargs["self"]
        known = self.selected.get(getattr(source, "name", ""))
        part = known or (self.broadcast.get(getattr(source, "name", "")) if is_scatter else None)
        made, own = site.types.get(results_of(node)[0]), site.types.get(base.name)
        if part is None or made is None or own is None or own.dtype != site.types[part.array.name].dtype:
            return None
        *before, mask = masks_of(node)
        (nodes, covering), array = self._mask(node, part, site) if known else ([], part.mask), part.array
        if not isinstance(mask, Value) or any(before) or len(before) != part.axis or (is_scatter and nodes):
            return None
        if self.equal.are_equal(mask, part.mask):
            if node.kwargs.get("accumulate") or not same_sizes(site.types[array.name], made):
                return None
        else:
            is_whole = known and mask.name in site.types and same_sizes(site.types[mask.name], made)
            if not is_scatter or not is_whole or not self.equal.are_equal(mask, part.mask, flat=True):
                return None
            nodes = [self.add(node, site, "aten.view_as.default", made, self=array, other=mask)]
            array, covering = Value(nodes[0].name), mask
        kwargs = {"condition": covering, "self": array, "other": base}
        return [*nodes, replace(node, op="aten.where.self", kwargs=kwargs)]

    def _of_known_size(self, node: Node, site: Site) -> list[Node] | None:
        """Return the node for elements whose number follows from the shape in which they are put."""
        size: Any = node.kwargs.get("size", node.kwargs.get("shape"))
        source: Any = node.kwargs["self"]
        part = self.selected[source.name]
        values = {n.name for n in size if isinstance(n, Value)}
        is_number = all(isinstance(n, Value) or n > 0 for n in size) and values.isdisjoint(self.numbers)
        if not is_number or part.axis or part.covered != len(site.types[part.array.name].shape):
            return None
        kwargs = {"self": part.array, "mask": part.mask, "size": size}
        return [replace(node, op="jaxlstm.elements_at.default", kwargs=kwargs)]

    def _reduced(self, node: Node, part: Selected, site: Site) -> list[Node] | None:
        """Return nodes for the sum or mean of selected elements, of all or along their axis."""
        own, mask, kwargs = site.types[part.array.name], part.mask, dict[str, Any](node.kwargs)
        rank = len(own.shape) - part.covered + 1
        # The sum of half-precision numbers may overflow, and their mean is not rounded twice.
        if node.op != _REDUCED[node.op] and (kwargs.get("dtype") or own.dtype.itemsize < 4):
            return None
        is_along = bool(kwargs.get("dim"))
        if is_along:
            is_kept = kwargs.get("keepdim") and part.covered > 1
            if is_kept or [dim % rank for dim in kwargs["dim"]] != [part.axis]:
                return None
            kwargs["dim"] = tuple(range(part.axis, part.axis + part.covered))
        nodes, kwargs["self"] = self._where(node, part, site, 0)
        total = replace(node, op=_REDUCED[node.op], kwargs=kwargs)
        if node.op == total.op:
            return [*nodes, total]
        total = self.add(node, site, total.op, node.types[results_of(node)[0]], **kwargs)
        if part.covered < len(own.shape) and not is_along:
            more, mask = self._mask(node, part, site)
            whole = TensorType(np.dtype(bool), own.shape, own.expressions)
            more.append(self.add(node, site, "aten.expand_as.default", whole, self=mask, other=part.array))
            nodes, mask = [*nodes, *more], Value(more[-1].name)
        count = self.add(node, site, _SUM_ALL, TensorType(np.dtype("int64"), ()), self=mask)
        kwargs = {"self": Value(total.name), "other": Value(count.name)}
        return [*nodes, total, count, replace(node, op="aten.div.Tensor", kwargs=kwargs)]

    def _elementwise(self, node: Node, kind: str, site: Site) -> list[Node] | None:
        """Return nodes for a function of each element, which nothing else than their sum may use."""
        result, *others = results_of(node)
        given = {name: self.selected.get(name) for name in uses_of(node)}
        parts = [part for part in given.values() if part]
        own = site.types[parts[0].array.name]
        numbers = (site.types.get(name) for name, part in given.items() if not part)
        fits = all(self.are_together(part, parts[0], site) for part in parts)
        fits = fits and not any(type_ is None or type_.shape for type_ in numbers)
        if others or not node.with_gradient or not fits:
            return None
        nodes, arrays = list[Node](), dict[str, Value]()
        for name, part in given.items():
            if part and (kind == "fill" or (part.is_finite and kind in _FINITE)):
                arrays[name] = part.array
            elif part:
                more, arrays[name] = self._where(node, part, site, 1)
                nodes += more
        kwargs = {
            key: arrays.get(value.name, value) if isinstance(value, Value) else value
            for key, value in node.kwargs.items()
        }
        type_ = TensorType(node.types[result].dtype, own.shape, own.expressions)
        nodes.append(self.add(node, site, node.op, type_, **kwargs))
        self.selected[result] = parts[0]._replace(array=Value(nodes[-1].name), is_finite=True)
        return [*nodes, node]

    def _loss(self, node: Node, site: Site) -> list[Node] | None:
        """Return nodes for the mean or sum of a loss of each element."""
        if node.kwargs.get("weight") or node.kwargs.get("pos_weight"):
            return None
        # The losses of the elements have the name of the result until it is made.
        result, dtype = results_of(node)[0], node.types[results_of(node)[0]].dtype
        losses = replace(node, kwargs={**node.kwargs, "reduction": 0}, types={result: TensorType(dtype, ())})
        nodes = self._elementwise(losses, "", site)
        if nodes is None:
            return None
        part, types = self.selected.pop(result), nodes[-2].types
        site.types.update(types)
        reduction = "aten.mean.default" if node.kwargs.get("reduction", _MEAN) == _MEAN else _SUM_ALL
        reduced = self._reduced(replace(node, op=reduction, kwargs={}), part, site)
        return reduced and [*nodes[:-1], *reduced]

    def _loss_of_classes(self, node: Node, site: Site) -> list[Node] | None:
        """Return nodes for a loss that leaves out the targets of other elements."""
        given = values_in((node.kwargs["self"], node.kwargs["target"]))
        scores, target = (self.selected.get(name) for name in given)
        if scores is None or target is None or not self.equal.are_equal(scores.mask, target.mask):
            return None
        own, classes = site.types[scores.array.name], site.types[target.array.name]
        if len(own.shape) != scores.covered + 1 or len(classes.shape) != scores.covered or scores.axis:
            return None
        nodes, array = self._where(node, scores, site, 1)
        more, places = self._where(node, target, site, node.kwargs.get("ignore_index", -100))
        nodes += more
        if (rank := len(own.shape)) > 2:
            order = (0, rank - 1, *range(1, rank - 1))
            by_class = own.permuted(order)
            nodes.append(self.add(node, site, "aten.permute.default", by_class, self=array, dims=order))
            array = Value(nodes[-1].name)
        return [*nodes, replace(node, kwargs={**node.kwargs, "self": array, "target": places})]
