"""Rounding of outputs for grants of scores: fewer decimals, and only the top scores of each row."""

from __future__ import annotations

import numpy as np

from gradwire.backends.backend import Array, OutputKind


def rounded(outputs: Array, kind: OutputKind, decimals: int | None, top_k: int | None) -> Array:
    """Rounds outputs, and hides all but the largest of each row.

    Args:
        outputs: Outputs, ``(n, C)``.
        kind: Kind of the outputs.
        decimals: Decimals to keep; None: all.
        top_k: Outputs to show of each row; None: all. The others become 0; for logits, where 0 may be large, they become one
            less than the smallest shown.

    Returns:
        ``(n, C)`` in the dtype of ``outputs``.
    """
    if decimals is not None:
        # In double precision, where 10**decimals does not overflow. Zero is added because -0.0 would reveal the sign.
        outputs = (np.round(outputs.astype(np.float64), decimals) + 0.0).astype(outputs.dtype)
    if top_k is None or outputs.ndim != 2 or top_k >= outputs.shape[1]:
        return outputs
    # A stable sort shows the first of equal outputs, as argmax does.
    shown = np.argsort(-outputs, axis=1, kind="stable")[:, :top_k]
    kept = np.take_along_axis(outputs, shown, axis=1)
    result = np.zeros_like(outputs)
    if kind == "logits":
        result[...] = kept[:, -1:] - 1
    np.put_along_axis(result, shown, kept, axis=1)
    return result
