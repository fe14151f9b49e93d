"""Random TorchScript functions: the interpreter's values are TorchScript's, types and errors included."""

import linecache
import math
import random
import re
from typing import Any, Optional

import pytest
import torch
from torch.jit._fuser import optimized_execution

import jaxlstm
from testing.seeds import seeds

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated", "ignore:std")

EXPRESSIONS = {
    "i": """
        3; -7; k; len(items); x.size(0); x.dim(); <i> + <i>; <i> - <i>; <i> * <i>; <i> // <i>; <i> %
        3; <i> % -4; -<i>; abs(<i>); min(<i>, <i>); max(<i>, <i>); int(<f>); int(<b>); sum(items);
        items[<i>]; items.pop(); names["a"]; len(word); items.count(<i>); items.index(<i>);
        ord("a"); <i> & 3; (<i> if <b> else <i>); pair[0]; len(names); max(items); int(word[0:1] ==
        "a"); x.shape[-1]; <i> << 2; math.floor(<f>); math.ceil(<f>); int(x.sum()); x.numel(); <i> |
        5; <i> ^ 6; -k % 5
    """,
    "f": """
        0.5; -2.5; f; <f> + <f>; <f> - <i>; <f> * <f>; <i> / <i>; <f> // <f>; <f> % 0.7; float(<i>);
        abs(<f>); min(<f>, <f>); math.sqrt(abs(<f>)); pair[1]; <i> * <f>; float(x.mean());
        round(<f>); float("1.5"); math.pow(<f>, 2.0); <f> // <i>; <i> % -0.75; math.fmod(<f>, 2.5);
        x.max().item() * 1.0; float(<b>); 1e-7 * <f>
    """,
    "b": """
        True; <i> < <i>; <i> == <i>; <f> >= <f>; not <b>; <b> and <b>; <b> or <b>; <i> in items; "a"
        in names; word == "ab"; items == [1, 2]; maybe is None; bool(<i>); <i> != <i>; bool((x >
        <i>).any()); x.dtype == torch.float32; any([<b>]); word.startswith("a"); bool(<f>)
    """,
    "s": """
        "ab"; word; word + "c"; str(<i>); word[1:]; word.upper(); "{}-{}".format(<i>, <b>);
        str(<f>); "%d" % <i>; word.replace("a", "b"); "_".join([word, "x"]); word[-1];
        word.split("b")[0]; str(items); "b\\u00e9" + word; word[::-1]
    """,
    "t": """
        x; x + <i>; x * <f>; x / <i>; x - x.size(0); -x; x[0]; x[-1:]; x[..., None];
        x.to(torch.int32); torch.zeros(2, <i>); x.sum(); x // 2; x % 3; x.t(); x.reshape(-1);
        torch.cat([x, x]); torch.arange(<i>); x.float(); torch.tensor(<i>); torch.tensor([<i>, 2]);
        torch.tensor(<f>); torch.full([2], <i>); <i> - x; x.int() * <f>; torch.stack([x, x], 1);
        x.sum(0, keepdim=<b>); x.clone().add_(<i>); x.max(0)[0]; x ** 2; torch.where(x > <i>, x,
        -x); x.long() * torch.tensor(2.5, dtype=torch.float64); x.argmax(); x == <i>;
        torch.tensor(<b>); x.expand(2, -1, -1); x.std(); x.to(torch.float16); <f> / (x + 9.0);
        x.bool() & True
    """,
}
"""Kind of a value (int, float, bool, str, Tensor) -> expressions, which contain others as <kind>."""
STATEMENTS = """
    k = <i>; f = <f>; word = <s>; x = <t>; items.append(<i>); items = [<i>, <i>, k]; items[<i>] =
    <i>; names["b"] = <i>; items = items[<i>:]; items = items + [k]; items.reverse(); items.sort();
    maybe = <i>; maybe = None; pair = (<i>, <f>); items.insert(<i>, 4); items.extend([k, 2]); del
    items[0]; items = sorted(items); items = [i + 1 for i in items]; k += 2; f *= 0.5; x =
    x.clone(); names = {"a": k}; items = items[::2]; items = items * 2; x[0] = <f>; x += 1;
    items.clear(); items = items[::-1]; k -= 3; items = list(names.values()); k = names.get("c", 5);
    names.pop("b"); pair = (pair[0] + 1, pair[1])
"""
BLOCKS = """
    if <b>:; if <b>:; for i in range(abs(<i>) % 4):; while steps > 0:; for i, item in
    enumerate(items[:3]):; if maybe is not None:; for item, other in zip(items[:3], items[:2]):; for
    name in names.keys():; with torch.no_grad():
"""
LEAVING = """
    break; continue; return (k, f, word, x, items, maybe, names, pair); raise ValueError(word);
    assert <b>, word
"""
ARGUMENTS = (
    (torch.arange(6.0).reshape(2, 3) - 2.5, 2, 0.75, "ab"),
    (torch.ones(3, 2, dtype=torch.int64), -5, -1.5, "b\u00e9", 3),
)


def function(rng: random.Random) -> str:
    """Return the source of a random method."""

    def chosen(options: str, *, depth: int = 0, start: int = 0) -> str:
        found = [" ".join(option.split()) for option in options.split(";")][start:]
        option = rng.choice(found[:3] if depth > 3 else found)
        return re.sub("<(.)>", lambda kind: f"({chosen(EXPRESSIONS[kind[1]], depth=depth + 1)})", option)

    def block(indent: int, in_loop: bool) -> list[str]:
        lines: list[str] = []
        space = "    " * indent
        for _ in range(rng.randint(1, 4)):
            if indent < 4 and rng.random() < 0.3:
                head = chosen(BLOCKS)
                counted = [f"{space}    steps -= 1"] * head.startswith("while")
                is_loop = in_loop or head.startswith(("for", "while"))
                lines += [space + head, *counted, *block(indent + 1, is_loop)]
            elif indent > 1 and rng.random() < 0.15:
                return [*lines, space + chosen(LEAVING, start=0 if in_loop else 2)]
            else:
                lines.append(space + chosen(STATEMENTS))
        return lines

    head = "def forward(self, x: Tensor, k: int, f: float, word: str, maybe: Optional[int] = None):"
    start = ["items = [3, 1, k]", 'names = {"a": k, "b": 2}', "pair = (k, f)", "steps = 3"]
    result = "    return (k, f, word, x, items, maybe, names, pair)\n"
    return "\n".join([head, *("    " + line for line in start), *block(1, False), result])


def outcome(run: Any, args: tuple[Any, ...]) -> Any:
    try:
        return run(*(arg.clone() if torch.is_tensor(arg) else arg for arg in args))
    except (RuntimeError, LookupError, ValueError, AssertionError, TypeError, torch.jit.Error) as error:
        return error


def same(ours: Any, theirs: Any) -> bool:
    if torch.is_tensor(theirs):
        is_same = ours.dtype == theirs.dtype and ours.shape == theirs.shape
        return is_same and torch.equal(ours.nan_to_num(7), theirs.nan_to_num(7))
    if isinstance(theirs, (list, tuple, dict)):
        pairs = zip(*(x.items() if isinstance(x, dict) else x for x in (ours, theirs)), strict=True)
        return type(ours) is type(theirs) and len(ours) == len(theirs) and all(same(a, b) for a, b in pairs)
    return type(ours) is type(theirs) and (ours == theirs or (ours != ours and theirs != theirs))


def script_of(source: str) -> Any:
    """Return the ScriptModule of a method. torch reads its source from a file."""
    path = f"<generated {hash(source)}>"
    linecache.cache[path] = (len(source), None, source.splitlines(True), path)
    names: dict[str, Any] = {"torch": torch, "math": math, "Tensor": torch.Tensor, "Optional": Optional}
    exec(compile(source, path, "exec"), names)
    return torch.jit.script(type("Model", (torch.nn.Module,), {"forward": names["forward"]})())


def check(seed: int) -> str:
    """Compare a random method, and return how: "same", "both fail", or the reason why it is not compared."""
    source = function(random.Random(seed))
    try:
        script = script_of(source)
    except RuntimeError as error:
        return f"torch: {error}"
    module = jaxlstm.load_torchscript(script)
    for args in ARGUMENTS:
        with torch.no_grad(), optimized_execution(False):
            theirs, ours = outcome(script, args), outcome(module, args)
        if any(words in str(theirs) for words in ("INTERNAL ASSERT", "Run lint")):
            return f"torch: {theirs}"
        if isinstance(ours, RuntimeError) and "without overflow" in str(ours):
            return "NaN as an integer is an error"
        if isinstance(theirs, Exception):
            assert isinstance(ours, Exception), f"{source}\n{ours}\n{theirs}"
            return "both fail"
        assert not isinstance(ours, Exception), f"{source}\n{ours!r}\n{theirs}"
        assert same(ours, theirs), f"{source}\n{ours}\n{theirs}"
    return "same"


@pytest.mark.parametrize("seed", seeds(fast=1, slow=40))
def test_random_methods(seed: int) -> None:
    found = [check(100 * seed + number) for number in range(100)]
    assert found.count("same") > 50
