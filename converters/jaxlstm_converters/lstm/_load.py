"""Load one LSTM from a file of any supported format, a torch module or a state dict, and convert it back.

Names and shapes are the same on both sides, so the conversion only checks them.
"""

import copy
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxlstm._shared.files import require_path
from jaxlstm._shared.progress import Progress, no_progress
from jaxlstm._shared.torch_tensors import numpy_to_tensor
from jaxlstm.layer.config import LSTMConfig
from jaxlstm.layer.params import Params, check_params, param_shapes
from jaxlstm_converters.checkpoint import read_checkpoint
from jaxlstm_converters.checkpoint.pickle._name_tensors import has_lstm_names
from jaxlstm_converters.layer_kinds import SETTINGS, is_plain
from jaxlstm_converters.lstm.selected import SelectedLSTM, select_lstm


def module_state_dict(module: Any) -> dict[str, Any]:
    """Return the tensors of a ``torch.nn.Module`` by name.

    A parametrized weight (``torch.nn.utils.parametrize``) has its plain name and its value in ``eval()``.
    Weight normalization keeps its two tensors, because Flax has it too; elsewhere they are folded. A state
    dict does not record which parametrizations its tensors belong to, but the module does.
    """
    tensors = {name: value for name, value in module.state_dict().items() if hasattr(value, "shape")}
    for path, part in module.named_modules(remove_duplicate=False):
        if type(part).__name__ != "ParametrizationList":
            continue
        if [type(parametrization).__name__ for parametrization in part] == ["_WeightNorm"]:
            continue
        tensors = {name: value for name, value in tensors.items() if not name.startswith(f"{path}.")}
        owner, _, weight = path.rpartition("parametrizations.")
        # A copy, because the call changes buffers that the parametrization may hold.
        tensors[owner + weight] = copy.deepcopy(part).eval()().detach()
    return tensors


def module_settings(module: Any) -> dict[str, dict[str, Any]]:
    """Return prefix -> the settings of each submodule that no state dict records.

    The class is under "lookalike" if a submodule has an LSTM's parameter names but is not torch's. Such a
    module may have other equations or another order of gates. Subclasses of torch's layers are not among
    them.
    """
    settings: dict[str, dict[str, Any]] = {}
    for name, part in module.named_modules(remove_duplicate=False):
        values = {key: getattr(part, key) for key in SETTINGS if hasattr(part, key)}
        own = {key: value for key, value in values.items() if is_plain(value)}
        if not _is_torchs(part) and has_lstm_names(key for key, _ in part.named_parameters(recurse=False)):
            own["lookalike"] = f"{type(part).__module__}.{type(part).__qualname__}"
        settings[f"{name}." if name else ""] = own
    return settings


def _is_torchs(module: Any) -> bool:
    """Return True for torch's recurrent layers, classes derived from them, and their TorchScript."""
    derived = any(cls.__module__ == "torch.nn.modules.rnn" for cls in type(module).__mro__)
    return derived or getattr(module, "original_name", "") in ("LSTM", "LSTMCell")


def from_torch(
    module_or_state_dict: Any,
    *,
    prefix: str = "",
    batch_first: bool | None = None,
    dropout: float | None = None,
    dtype: Any = None,
) -> tuple[Params, LSTMConfig]:
    """Return the parameters of one LSTM or LSTMCell, under torch's names, and its config.

    Args:
      module_or_state_dict: a ``torch.nn.Module`` that is or contains an LSTM, its state dict (torch tensors
        or NumPy arrays), or the result of ``jaxlstm.read_checkpoint``.
      prefix: the LSTM to convert, such as ``"encoder.lstm."``, or the unique last components of its prefix,
        such as ``"lstm"``. Not needed if there is only one LSTM.
      batch_first, dropout: override the values of the module or checkpoint. A state dict does not record
        them; the defaults are then False and 0.0.
      dtype: cast the parameters to this dtype. None keeps the bits.

    Returns:
      ``(params, config)``: a dict of JAX arrays and an :class:`jaxlstm.LSTMConfig`.

    Raises:
      ValueError: the state dict has no LSTM, ``prefix`` does not select exactly one, or the LSTM has missing,
        unexpected or misshapen tensors. The message names them.
      TypeError: the argument is neither a module nor a mapping, or a parameter is float64 while JAX's
        64-bit mode is off.

    Warns:
      PortingWarning: the LSTM of a module is of another class than torch's, with the same parameter names.

    >>> params, config = jaxlstm.from_torch(torch.nn.LSTM(3, 5, batch_first=True))
    >>> config.batch_first, params["weight_ih_l0"].shape
    (True, (20, 3))
    """
    source, options = module_or_state_dict, {"prefix": prefix, "batch_first": batch_first, "dropout": dropout}
    if isinstance(source, Mapping):
        selected = select_lstm(source, **options)
    elif callable(getattr(source, "state_dict", None)):
        selected = select_lstm(module_state_dict(source), settings=module_settings(source), **options)
    else:
        raise TypeError(
            "module_or_state_dict must be a torch.nn.Module or a mapping of names to tensors, got "
            f"{type(source).__name__}; use jaxlstm.load for a path"
        )
    selected.warn_of_lookalike()
    return to_jax(selected.params, dtype), selected.config


def to_jax(arrays: Mapping[str, Any], dtype: Any) -> Params:
    """Return NumPy arrays as JAX arrays of ``dtype``; None keeps the dtype of each array."""
    from jaxlstm.layer.precision import as_float_array, require_dtype

    if dtype is not None:
        dtype = require_dtype("dtype", dtype)
        for name, array in arrays.items():
            if array.dtype.kind in "biu":  # an integer is not the weight, but its quantized form
                require_dtype(name, array.dtype)
        arrays = {name: array.astype(dtype) for name, array in arrays.items()}
    return {name: as_float_array(name, array, copy=True) for name, array in arrays.items()}


def load(
    path: str | os.PathLike[str],
    *,
    prefix: str | None = None,
    batch_first: bool | None = None,
    dropout: float | None = None,
    dtype: Any = None,
) -> tuple[Params, LSTMConfig]:
    """Return the parameters and config of one LSTM in a file.

    Args:
      path: a checkpoint in any format of ``jaxlstm.read_checkpoint``, such as a file of ``jaxlstm.save``.
      prefix, batch_first, dropout, dtype: as for ``jaxlstm.from_torch``. Files of ``jaxlstm.save``, programs
        and modules that were pickled whole record ``batch_first`` and ``dropout``, and the weights of written
        source ``batch_first``. Otherwise, a warning gives the assumed values of arguments that are None.

    Returns:
      ``(params, config)``: JAX arrays under torch's names and an :class:`jaxlstm.LSTMConfig`.

    Warns:
      PortingWarning: ``batch_first`` or ``dropout`` is neither recorded nor given, or the file holds a whole
        module whose LSTM may be of another class than torch's, with the same parameter names.

    Raises:
      CheckpointError: the file is damaged, unsafe or in an unknown format.
      TypeError: ``path`` is not a path, or ``dtype`` is not a float dtype.
      ValueError: the file has no LSTM, ``prefix`` does not select exactly one, or the LSTM is invalid.
      OSError: the file cannot be read.

    >>> torch.save(torch.nn.LSTM(3, 5).state_dict(), "lstm.pt")
    >>> params, config = jaxlstm.load("lstm.pt", batch_first=False, dropout=0.0)
    >>> config.hidden_size
    5
    """
    require_path(path, "jaxlstm.from_torch takes a state dict or a torch module")
    selected = read_lstm(path, prefix, batch_first=batch_first, dropout=dropout)
    selected.warn_of_lookalike()
    selected.warn_of_assumptions(path, "the values of the torch module to jaxlstm.load")
    return to_jax(selected.params, dtype), selected.config


def read_lstm(
    path: str | os.PathLike[str], prefix: str | None = None, *, progress: Progress = no_progress, **given: Any
) -> SelectedLSTM:
    """Load as :func:`load` does, with NumPy arrays of the stored dtype and without importing jax."""
    return select_lstm(read_checkpoint(path), prefix=prefix, progress=progress, **given)


class StateArray(np.ndarray):
    """A NumPy array that ``torch.nn.Module.load_state_dict`` accepts.

    torch calls ``__torch_function__`` of arguments that are not tensors. The method here replaces each
    StateArray by a tensor of the same bits.
    """

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call ``func`` with tensors instead of StateArrays."""

        def convert(value: Any) -> Any:
            if isinstance(value, cls):
                return value.tensor()
            return type(value)(map(convert, value)) if type(value) in (list, tuple) else value

        return func(*convert(args), **{key: convert(v) for key, v in (kwargs or {}).items()})

    def tensor(self) -> Any:
        """Return a copy of this array as a ``torch.Tensor``."""
        return numpy_to_tensor(np.array(self, order="C").view(np.ndarray))


def to_torch(
    params_or_module: Any, config: LSTMConfig | None = None, *, prefix: str = ""
) -> dict[str, np.ndarray]:
    """Return the state dict of the ``torch.nn.LSTM`` or ``LSTMCell`` of this config, in torch's order.

    ``lstm.load_state_dict(jaxlstm.to_torch(params, config))`` accepts it as it is. ``.tensor()`` converts a
    single entry to a tensor.

    Args:
      params_or_module: arrays under torch's names; or, without ``config``, an LSTM or LSTMCell of
        ``jaxlstm.nnx``, or one of ``jaxlstm.linen`` that is bound to its variables.
      config: the LSTM. None for a module, which has its own.
      prefix: put before each name, such as ``"encoder.lstm."``.

    Raises:
      TypeError: the argument is neither arrays with a config nor such a module.
      ValueError: the parameters do not fit the config. The message lists every missing, unexpected and
        misshapen one.

    >>> params, config = jaxlstm.from_torch(torch.nn.LSTM(3, 5))
    >>> list(jaxlstm.to_torch(params, config, prefix="rnn."))
    ['rnn.weight_ih_l0', 'rnn.weight_hh_l0', 'rnn.bias_ih_l0', 'rnn.bias_hh_l0']
    """
    params = params_or_module
    if config is None:
        params, config = _params_of(params_or_module)
    check_params(params, config)
    return {prefix + name: np.asarray(params[name]).view(StateArray) for name in param_shapes(config)}


def _params_of(module: Any) -> tuple[Mapping[str, Any], LSTMConfig]:
    """Return the parameters and config of an NNX module or a bound Linen module of jaxlstm."""
    if isinstance(module, Mapping):
        raise TypeError(
            "config must be the LSTMConfig or LSTMCellConfig of the parameters, got None; pass it as the "
            "second argument"
        )
    if not isinstance(getattr(module, "config", None), LSTMConfig):
        raise TypeError(
            "params_or_module must be a mapping of names to arrays, or an LSTM or LSTMCell of jaxlstm, got "
            f"{type(module).__name__}; jaxlstm.state_dict(model) converts a whole Flax model"
        )
    return module.params, module.config
