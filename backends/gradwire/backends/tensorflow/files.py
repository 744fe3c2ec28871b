"""SavedModels, and the functions to call in them.

Reading one unpickles nothing. A SavedModel is a program all the same: its operations may read and write files.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from gradwire.backends.errors import ModelConfigError
from gradwire.backends.tensorflow.device import tf

Call: TypeAlias = Callable[[Any, bool], Any]
"""``(inputs, training)`` to a model's result."""


def load(path: Path, signature: str | None) -> tuple[Any, list[Call], list[Any]]:
    """Reads a SavedModel: the object in it, the ways to call it, and the dtypes of its inputs.

    Args:
        path: Its folder.
        signature: The signature to call; None for its ``__call__``, or ``serving_default`` if it has none.

    Raises:
        ModelConfigError: The file cannot be read, or takes no rows.
    """
    if not path.is_dir():
        raise ModelConfigError("saved_model", f"{path} is not a folder; expected the folder of a SavedModel")
    try:
        loaded = tf.saved_model.load(str(path))
    except (OSError, ValueError, KeyError, AttributeError, tf.errors.OpError) as e:
        raise ModelConfigError("saved_model", f"{path} cannot be read as a SavedModel: {type(e).__name__}: {e}") from e
    # The function itself, and not a test that it can be called.
    traces = getattr(getattr(loaded, "__call__", None), "concrete_functions", None) or []  # noqa: B004
    by_mode, dtype = _for_any_rows(traces)
    if signature is None and by_mode:
        return loaded, [lambda x, training: (by_mode.get(training) or by_mode[not training])(x)], [dtype]
    return loaded, *_of_signature(path, loaded, signature, len(traces))


def _for_any_rows(traces: list[Any]) -> tuple[dict[bool, Any], Any]:
    """The traces that take any number of rows, by training mode, and their dtype.

    TensorFlow does not choose: inside a graph of any number of rows it takes the first trace that could fit, one of a single
    row say, and then differentiates that.
    """
    found: dict[bool, Any] = {}
    dtype = None
    for trace in traces:
        positional, named = trace.structured_input_signature
        given = [*positional, *named.values()]
        specs = [one for one in given if isinstance(one, tf.TensorSpec)]
        if len(specs) == 1 and given[0] is specs[0] and specs[0].shape.rank and specs[0].shape[0] is None:
            modes = [one for one in given if isinstance(one, bool)][:1] or [False, True]
            found |= dict.fromkeys(modes, trace)
            dtype = specs[0].dtype
    return found, dtype


def _of_signature(path: Path, loaded: Any, signature: str | None, traces: int) -> tuple[list[Call], list[Any]]:
    name = signature or "serving_default"
    if name not in loaded.signatures:
        there = ", ".join(loaded.signatures) or "none"
        fixed = f", and its traces are of {traces} fixed numbers of rows" if traces else ""
        raise ModelConfigError(
            "signature" if signature else "saved_model",
            f"{path} has no signature {name!r}{fixed}; its signatures: {there}. Save it with a function of any number of rows: "
            "tf.function(model, input_signature=[tf.TensorSpec([None, ...])])",
        )
    called = loaded.signatures[name]
    arguments = called.structured_input_signature[1]
    if len(arguments) != 1:
        raise ModelConfigError("signature", f"{name!r} of {path} takes {', '.join(arguments)}; expected one argument, the rows")
    ((argument, spec),) = arguments.items()
    return [lambda x, training: called(**{argument: x})], [spec.dtype]
