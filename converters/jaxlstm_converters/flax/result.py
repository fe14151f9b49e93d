"""The result of `load_state_dict`, and its error."""

from __future__ import annotations

from dataclasses import dataclass

_KINDS = ("missing", "unexpected", "misshapen")


@dataclass(frozen=True)
class Difference:
    """A tensor that does not fit.

    Attributes:
      torch: its name in torch.
      flax: the path of the arrays in the model; empty for an unexpected tensor.
      shape: its shape in the source; None if it is missing.
      expected: the shape that the model needs; None if it is unexpected.
      hint: a likely cause.
    """

    torch: str
    flax: str
    shape: tuple[int, ...] | None
    expected: tuple[int, ...] | None
    hint: str = ""

    def __str__(self) -> str:
        target = f" -> {self.flax}" if self.flax else ""
        if self.shape is None:
            text = f"{self.torch}{target} {self.expected}"
        elif self.expected is None:
            text = f"{self.torch} {self.shape}"
        else:
            text = f"{self.torch}{target} has shape {self.shape}, expected {self.expected}"
        return f"{text}; {self.hint}" if self.hint else text


@dataclass(frozen=True)
class LoadResult:
    """The outcome of `load_state_dict`.

    Attributes:
      loaded: (name in torch, path in the model) for each tensor and the array that holds it now.
      missing: tensors that the model needs and the source lacks.
      unexpected: tensors of the source without a place in the model.
      misshapen: tensors whose shape does not fit.
      warnings: settings to check, also given to Python's ``warnings`` as `PortingWarning`.
      notes: conversions that are more than a change of layout, such as biases that were summed.
    """

    loaded: tuple[tuple[str, str], ...] = ()
    missing: tuple[Difference, ...] = ()
    unexpected: tuple[Difference, ...] = ()
    misshapen: tuple[Difference, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """True if every tensor of the model was loaded and every tensor of the source was used."""
        return not (self.missing or self.unexpected or self.misshapen)

    @property
    def differences(self) -> list[str]:
        """One line for each tensor that does not fit."""
        return [f"{kind:10} {one}" for kind in _KINDS for one in getattr(self, kind)]

    def __str__(self) -> str:
        counts = ", ".join(f"{len(getattr(self, kind))} {kind}" for kind in _KINDS)
        lines = [f"{len(self.loaded)} loaded, {counts}", *(f"  {line}" for line in self.differences)]
        lines += [f"  {'warning':10} {text}" for text in self.warnings]
        lines += [f"  {'note':10} {text}" for text in self.notes]
        return "\n".join(lines)


class StateDictError(ValueError):
    """A state dict that does not fit a model. Nothing was written.

    Attributes:
      missing, unexpected, misshapen: as in `LoadResult`.
    """

    def __init__(self, message: str, result: LoadResult = LoadResult()) -> None:
        super().__init__(message)
        self.missing, self.unexpected, self.misshapen = result.missing, result.unexpected, result.misshapen
