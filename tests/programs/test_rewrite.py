"""``rewrite`` keeps names, results, mutations, functions and types right."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from jaxlstm.programs.graph import RESULT, Graph, Node, Site, Value, results_of, rewrite, uses_of
from jaxlstm.programs.passes.functionalize import functionalize
from testing.graphs import X, graph, node

RELU = node("aten.relu.default", "a", self=X, shape=("n", 3))
BOTH = node("aten.cat.default", "y", tensors=(Value("a"), X, Value("a")), shape=(None, 3))
GRAPH = graph(RELU, BOTH, params=["w"])


def without_relu(node: Node, site: Site) -> Value | None:
    value = node.kwargs.get("self")
    return value if node.op == "aten.relu.default" and isinstance(value, Value) else None


def test_nothing_changes_without_a_rule_that_does() -> None:
    assert rewrite(GRAPH) is GRAPH
    assert rewrite(GRAPH, lambda node, site: None) == GRAPH


def test_value_replaces_a_result_wherever_it_is_used() -> None:
    """In lists, in results and mutations, and in the arguments that later rules see."""
    given = replace(GRAPH, outputs=(Value("y"), (Value("a"), 1)), mutations={"count": Value("a")})
    seen: list[list[str]] = []
    new = rewrite(given, without_relu, lambda node, site: seen.append([*uses_of(node)]))
    assert new.nodes == (replace(BOTH, kwargs={"tensors": (X, X, X)}),)
    assert new.outputs == (Value("y"), (X, 1))
    assert new.mutations == {"count": X}
    assert new.types.keys() == {"x", "y"}
    assert seen == [["x", "x", "x"], ["y", "x", "x"]]


def test_value_replaces_one_that_a_function_captures() -> None:
    inner = replace(
        graph(node("aten.add.Tensor", "b", self=X, other=Value("a")), output="a"), captured=("a",)
    )
    outer = replace(
        inner, nodes=(node("higher_order.map_impl", "b", inner, (X,), ()),), outputs=(Value("b"),)
    )
    new = rewrite(graph(RELU, node("higher_order.map_impl", "y", outer, (X,), ())), without_relu)
    function = new.nodes[0].args[0]
    assert isinstance(function, Graph)
    assert function.captured == ("x",)
    (call,) = function.nodes
    innermost = call.args[0]
    assert isinstance(innermost, Graph)
    assert innermost.captured == ("x",)
    assert innermost.nodes[0].kwargs["other"] == X
    assert innermost.outputs == (X,)


def test_nodes_go_through_the_other_rules() -> None:
    def twice(node: Node, site: Site) -> Sequence[Node] | None:
        if node.op != "aten.relu.default":
            return None
        name = site.fresh("x")
        return replace(node, name=name, outputs=(name,), types={name: node.types["a"]}), node

    def negative(node: Node, site: Site) -> Node | None:
        return replace(node, op="aten.neg.default") if node.op == "aten.relu.default" else None

    new = rewrite(GRAPH, twice, negative)
    assert [(node.op, results_of(node)) for node in new.nodes] == [
        ("aten.neg.default", ["x_"]),
        ("aten.neg.default", ["a"]),
        ("aten.cat.default", ["y"]),
    ]
    assert new.types["x_"] == GRAPH.types["a"]


def test_rule_sees_makers_users_types_and_results() -> None:
    def rule(node: Node, site: Site) -> None:
        assert site.graph is GRAPH
        assert site.maker(X) is None
        assert site.maker(3) is None
        assert (site.maker(Value("a")) == RELU) == (site.place > 0)
        assert site.users["a"] == [BOTH, BOTH]
        assert [user.op for user in site.users["y"]] == [RESULT]
        assert site.types["a"] == GRAPH.types["a"]
        assert site.types["p_w"] == GRAPH.types["x"]
        places.append((site.place, node.op))

    places: list[tuple[int, str]] = []
    rewrite(GRAPH, rule, types={"p_w": GRAPH.types["x"]})
    assert places == [(0, RELU.op), (1, BOTH.op), (2, RESULT)]


def test_nodes_are_inserted_and_removed() -> None:
    def rule(node: Node, site: Site) -> Node | None:
        if node != BOTH:
            return None
        site.insert(replace(RELU, name="b", outputs=("b",), types={}), 0)
        maker = site.maker(Value("a"))
        assert maker is not None
        site.remove(maker)
        return replace(node, kwargs={"tensors": (Value("b"), X)})

    new = rewrite(GRAPH, rule)
    assert [results_of(node) for node in new.nodes] == [["b"], ["y"]]


def test_two_nodes_must_not_make_one_value() -> None:
    with pytest.raises(ValueError, match="two nodes make a;"):
        rewrite(GRAPH, lambda node, site: (node, node))


def test_functional_graph_stays() -> None:
    write = node("aten.add_.Tensor", "y", self=Value("a"), other=X, shape=("n", 3))
    given = replace(graph(RELU, write), outputs=(Value("y"), Value("a")))
    pure, written = functionalize(given, {})
    assert [node.op for node in pure.nodes] == ["aten.relu.default", "aten.add.Tensor"]
    assert pure.outputs == (Value("y"), Value("y"))
    assert not written
    assert functionalize(pure, {})[0] is pure
