"""Sizes of axes: the conditions on them, and arrays that are longer than torch's.

- `guards`: what an export assumed about the sizes of the inputs.
- `flow`, with the rules of `kept_axes`: where the elements along an axis reach. It proves that padding is
  harmless, and that rows do not meet.
- `prefix`, with the rules of `prefix_rules`: an array whose size along an axis depends on values, such as
  ``x[x > 0]`` under ``jit``.

An array is longer than torch's for three reasons, and no one of them can express the others. A `Prefix` has
a count that is a traced number, on one axis, and the same for all rows: each operator follows by a rule, or
by a proof of `flow`. The buckets of ``jaxlstm.inference.compile`` pad several axes at once, whose sizes the
host knows: one proof of `flow` for the whole program, which then runs as if nothing had happened. The lengths
of a batch of sequences, ``seq_lengths`` or packed, differ from row to row: only recurrent layers know them.
"""
