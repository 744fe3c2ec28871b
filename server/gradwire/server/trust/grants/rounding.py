"""Outputs made less telling, for those who were granted scores and no more."""

from __future__ import annotations

import numpy as np

from gradwire.backends.backend import Array, OutputKind


def rounded(outputs: Array, kind: OutputKind, decimals: int | None, top_k: int | None) -> Array:
    """Rounds outputs, and hides all but the largest of each row.

    Args:
        outputs: ``(n, C)``.
        kind: What they are.
        decimals: To round to; None: not rounded.
        top_k: How many of each row are shown; None: all. The others become 0, and of logits, where 0 may be large, one less
            than the smallest that is shown.

    Returns:
        ``(n, C)`` in the dtype of ``outputs``.
    """
    if decimals is not None:
        # In double precision, where 10**decimals does not overflow. Zero is added because -0.0 would still tell the sign.
        outputs = (np.round(outputs.astype(np.float64), decimals) + 0.0).astype(outputs.dtype)
    if top_k is None or outputs.ndim != 2 or top_k >= outputs.shape[1]:
        return outputs
    # Stable, so that of equal outputs the first are shown, as argmax takes the first.
    shown = np.argsort(-outputs, axis=1, kind="stable")[:, :top_k]
    kept = np.take_along_axis(outputs, shown, axis=1)
    result = np.zeros_like(outputs)
    if kind == "logits":
        result[...] = kept[:, -1:] - 1
    np.put_along_axis(result, shown, kept, axis=1)
    return result
