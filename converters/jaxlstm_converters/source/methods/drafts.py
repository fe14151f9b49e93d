"""Drafts of classes: the statements of the methods and of ``__init__`` of one module."""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jaxlstm_converters.source.graph.calls import Invocation
from jaxlstm_converters.source.graph.conditions import assertions
from jaxlstm_converters.source.methods.context import SINGLE, Context
from jaxlstm_converters.source.methods.functions import MethodWriter
from jaxlstm_converters.source.methods.host_arrays import with_updates
from jaxlstm_converters.source.methods.method import Method, Statement, returned
from jaxlstm_converters.source.methods.signature import signature
from jaxlstm_converters.source.modules.parts import initialized
from jaxlstm_converters.source.syntax import names, trees


@dataclass
class Draft:
    """The class of one module, as if no other module had the class.

    Attributes:
        path: path of the module.
        class_name: name of the class in torch.
        base: name of the base class.
        init: the statements of ``__init__``.
        methods: the methods by name.
    """

    path: str
    class_name: str
    base: str
    init: list[ast.stmt]
    methods: dict[str, Method]

    def trees(self) -> Iterator[ast.stmt]:
        """Yield all statements, of ``__init__`` and then of the methods."""
        yield from self.init
        for method in self.methods.values():
            yield from (statement.tree for statement in method.body)


def draft_of(context: Context, calls: Sequence[Invocation], methods: dict[int, Method]) -> Draft:
    """Return the draft of the module of some calls, and add their methods by id to ``methods``."""
    part, model = context.parts.at(context.path), context.model
    equal: dict[str, list[Invocation]] = {}  # text of a method -> the calls that it was written for
    written: dict[str, Method] = {}
    of_programs = {_usual_name(call) for call in calls if id(call) in model.exported}
    for call in () if part.is_chain else calls:
        method, exported = _method(context, call), model.exported.get(id(call))
        methods[id(call)] = method
        others = equal.setdefault(_text(method), [])
        known = (other for other in others if model.may_run(other, call))
        if exported is None and (other := next(known, None)):
            method.name = methods[id(other)].name
        else:
            taken = {*part.parts, *written, *(() if exported else of_programs)}
            usual = _usual_name(call)
            number = names.unique(f"{call.method or 'call'}_2", taken)
            method.name = number if usual in taken else usual
            written[method.name] = method
            others.append(call)
    base = "nnx.Sequential" if part.is_chain else "nnx.List" if part.is_list else "nnx.Module"
    init, layers = initialized(part), context.model.layers
    if (layer := layers.bases.get(context.path)) is not None:
        base, init = layer.constructor, [layers.made_base(context.path), *init]
    made = Draft(context.path, calls[0].class_name.rpartition(".")[2], base, init, written)
    nodes = (node for method in written.values() for s in method.body for node in ast.walk(s.tree))
    if any(trees.shown(node) == trees.shown(context.dtype) for node in nodes):
        made.init = [*init, trees.assign(context.dtype, SINGLE)]
    return made


def _text(method: Method) -> str:
    """Return the text of a method without the conditions on its arguments."""
    parameters = [p.arg for p in (*method.parameters, *method.keywords)]
    body = (s.tree for s in method.body if not isinstance(s.tree, ast.Assert))
    return repr((parameters, [*map(trees.shown, body)]))


def _usual_name(call: Invocation) -> str:
    """Return the name that the method of a call gets if it is free."""
    return names.attribute_name(call.method) if call.method else "__call__"


def _method(context: Context, call: Invocation) -> Method:
    """Return the method that a call of a module runs."""
    writer, exported = MethodWriter(call, context), context.model.exported.get(id(call))
    if exported is not None:
        parameters, bound = signature(exported.declared, writer.argument_name)
        method = writer.outermost(parameters, bound)
        method.body[:0] = map(Statement, assertions(exported.declared, bound, exported.checked))
    else:
        method = writer.method()
    with_updates(method.body, [p.arg for p in (*method.parameters, *method.keywords)])
    method.body = returned(method.body)
    if method.inputs:
        # A layer may make the state that needed a size.
        read = {name for statement in method.body for name in trees.variables(statement.tree)}
        given = zip(method.inputs, method.parameters, strict=True)
        kept = [(value, parameter) for value, parameter in given if parameter.arg in read]
        method.inputs, method.parameters = [v for v, _ in kept], [parameter for _, parameter in kept]
    return method
