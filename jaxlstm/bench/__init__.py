"""How fast an LSTM is on a device, beside other libraries' LSTMs with the same weights: ``jaxlstm bench``.

:mod:`.sizes` says what is measured, :mod:`.setting` where and how exactly, :mod:`.peers` by whom,
:mod:`.agreement` that all compute the same, :mod:`.timing` how the clock is read, :mod:`.measure` puts them
together, :mod:`.chart` draws it.
"""
