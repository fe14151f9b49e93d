"""Replaced attributes that other threads do not see."""

import contextlib
import inspect
import threading
from collections.abc import Iterator
from typing import Any

LOCK = threading.RLock()
"""Held while attributes are replaced: two threads would restore each other's."""

_MISSING = object()


class ByThread:
    """A value in the thread that made it, and another in all others.

    It stands for a function, an attribute of a class, the items of a set or the attributes of an object.
    """

    def __init__(self, value: Any, others: Any) -> None:
        self._value, self._others = value, others
        self._thread: int | None = threading.get_ident()

    def end(self) -> None:
        """Be the value of the others in all threads: someone may have kept this object."""
        self._thread = None

    def _present(self) -> Any:
        return self._value if self._thread == threading.get_ident() else self._others

    def __get__(self, instance: Any, kind: Any = None) -> Any:
        """Return the attribute of an instance, or of a class."""
        present = self._present()
        if present is _MISSING:
            raise AttributeError(f"{kind.__name__} has no such attribute in this thread")
        bind = getattr(type(present), "__get__", None)
        return bind(present, instance, kind) if bind else present

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self._present()(*args, **kwargs)

    def __contains__(self, item: Any) -> bool:
        return item in self._present()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._present(), name)


@contextlib.contextmanager
def replaced(target: Any, name: str, value: Any) -> Iterator[None]:
    """Replace an attribute of a class, module or object inside the block, for this thread only."""
    original = inspect.getattr_static(target, name, _MISSING)
    is_own = name in vars(target)
    with LOCK:
        stand_in = ByThread(value, original)
        setattr(target, name, stand_in)
        try:
            yield
        finally:
            stand_in.end()
            if is_own:
                setattr(target, name, original)
            else:
                delattr(target, name)
