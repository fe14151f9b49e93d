"""Flax source of a program: the port that a person would write, which the user owns."""

from jaxlstm_converters.source._source_text import WrittenSource as WrittenSource
from jaxlstm_converters.source._source_text import source_text as source_text
