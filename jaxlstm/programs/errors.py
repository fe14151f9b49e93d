"""``ProgramError`` and the table of its codes."""

CODES: dict[str, str] = {
    # at load time
    "unsupported-operator": "the graph calls operators that are not registered",
    "training-mode": "the model was exported in training mode",
    "unsupported-alias": "an in-place operator writes to a tensor that may or may not be shared with another",
    "malformed-graph": "the graph uses undefined values or calls an operator with wrong arguments",
    "tensor-dtype": "a parameter, buffer or constant has a dtype that JAX does not hold at present",
    # while its source is written
    "unproven-source": "the written source differs from the program",
    # at call time
    "params": "parameters or buffers with other names, shapes or dtypes than the program's",
    "input-structure": "arguments that do not have the structure of the program's inputs",
    "input-shape": "an input with a shape that the program does not accept",
    "input-dtype": "an input with another dtype than the program's",
    "input-constant": "an argument that the export fixed has another value",
    "guard": "an assertion in the graph does not hold for these inputs",
    "static-shape": "a node's shape in the file contradicts the shapes of the inputs",
    "index-range": "an index that is out of range",
    "node-failed": "an operator refused its arguments",
    "node-dtype": "a node gives another dtype than in the file",
}


class ProgramError(ValueError):
    """A program that cannot be loaded, or arguments that it does not accept.

    Attributes:
      code: a key of ``CODES``; stable, so that programs may branch on it.
      message: the reason and the fix.
    """

    def __init__(self, code: str, message: str) -> None:
        assert code in CODES, code
        super().__init__(message)
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[object, ...]:
        return ProgramError, (self.code, self.message)

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]"
