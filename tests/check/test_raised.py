"""The description of a port's exception: type, first line, and the line in the port."""

from __future__ import annotations

import numpy as np
import pytest

import jaxlstm
from jaxlstm.check.exceptions import PORT_EXCEPTIONS, describe
from jaxlstm.config import LSTMConfig
from tests.support.verification import random_params

CONFIG = LSTMConfig(3, 4)


def test_exception_without_a_line():
    assert describe(ValueError("two\nlines")) == "ValueError: two"
    assert describe(AssertionError()) == "AssertionError"


def in_a_library():
    np.linalg.inv(np.zeros((2, 2)))


def in_ours():
    jaxlstm.lstm(random_params(CONFIG), np.zeros((0, 1, 3), np.float32), config=CONFIG)


def through_another():
    in_a_library()


@pytest.mark.parametrize(
    ("port", "last"),
    [
        (in_a_library, in_a_library),
        (in_ours, in_ours),
        (through_another, in_a_library),
    ],
)
def test_line_is_the_ports_last(port, last):
    with pytest.raises(PORT_EXCEPTIONS) as caught:
        port()
    line = last.__code__.co_firstlineno + 1
    assert describe(caught.value).endswith(f" (test_raised.py:{line})")
