"""Weights of a scikit-learn model: whole estimators in .skops files, of types that are known to be harmless.

A .skops file names the types that it holds, and each must be trusted by its full name: a prefix would admit functions
such as ``numpy.testing.runstring``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import joblib
import skops.io

from gradwire.backends.errors import ModelConfigError, Unsupported

# scikit-learn's own types that skops does not list, and that hold only numbers.
_PLAIN_TYPES = {
    "sklearn._loss.loss.HalfTweedieLossIdentity",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.calibration._TemperatureScaling",
    "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
    "sklearn.gaussian_process.kernels.ConstantKernel",
    "sklearn.gaussian_process.kernels.Product",
    "sklearn.gaussian_process.kernels.RBF",
    "sklearn.gaussian_process.kernels.Sum",
    "sklearn.gaussian_process.kernels.WhiteKernel",
    "sklearn.metrics._scorer._PassthroughScorer",
    "sklearn.model_selection._split.KFold",
    "sklearn.model_selection._split.StratifiedKFold",
    "sklearn.multiclass._ConstantPredictor",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.utils._bunch.Bunch",
}
# scikit-learn follows their node indices without checks: a forged file can crash the process, or read its memory.
_TREE_TYPES = {
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.metrics._dist_metrics.ChebyshevDistance64",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.metrics._dist_metrics.ManhattanDistance64",
    "sklearn.metrics._dist_metrics.MinkowskiDistance64",
    "sklearn.metrics._dist_metrics.SEuclideanDistance64",
    "sklearn.neighbors._ball_tree.BallTree",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.tree._tree.Tree",
}


def read(path: Path, trust_pickle: bool, trust_types: Iterable[str]) -> Any:
    """Reads the estimator in a file that the operator configured.

    Args:
        path: .skops, or .pkl or .joblib with ``trust_pickle``.
        trust_pickle: If true, formats that run code while they are read are allowed.
        trust_types: Full names of types that a .skops file may hold besides scikit-learn's harmless ones.

    Raises:
        ModelConfigError: The file cannot be read, or holds types that are not trusted.
    """
    if path.suffix == ".skops":
        return _read_skops(path, _PLAIN_TYPES | set(trust_types))
    if path.suffix not in (".pkl", ".pickle", ".joblib"):
        raise ModelConfigError(
            "weights", f"{path} has no known format; expected .skops, or .pkl or .joblib with trust_pickle: true"
        )
    if not trust_pickle:
        raise ModelConfigError(
            "weights", f"{path} is a pickle, which runs code when it is read; save the model as .skops, or set trust_pickle: true"
        )
    try:
        return joblib.load(path)
    except Exception as e:
        raise ModelConfigError("weights", f"{path} cannot be read: {type(e).__name__}: {e}") from e


def read_saved(path: Path, trust_types: Iterable[str]) -> Any:
    """Reads the estimator in a file of `save`, with any file name. Raises ModelConfigError."""
    return _read_skops(path, _saved_types(trust_types))


def save(estimator: Any, path: Path, trust_types: Iterable[str]) -> None:
    """Writes an estimator to a .skops file.

    Raises:
        Unsupported: The estimator holds types that `read_saved` would not trust.
    """
    data = skops.io.dumps(estimator)
    strange = set(skops.io.get_untrusted_types(data=data)) - _saved_types(trust_types)
    if strange:
        raise Unsupported(f"the estimator holds {', '.join(sorted(strange))}; name them in trust_types so that it can be saved")
    path.write_bytes(data)


def _saved_types(trust_types: Iterable[str]) -> set[str]:
    # Versions come from this server's own folder, so that their trees need no entry in trust_types.
    return _PLAIN_TYPES | _TREE_TYPES | set(trust_types)


def _read_skops(path: Path, trusted: set[str]) -> Any:
    try:
        types = set(skops.io.get_untrusted_types(file=path))
        if not types - trusted:
            return skops.io.load(path, trusted=sorted(types))
    except Exception as e:
        raise ModelConfigError("weights", f"{path} cannot be read: {type(e).__name__}: {e}") from e
    strange = ", ".join(sorted(types - trusted))
    raise ModelConfigError("weights", f"{path} holds {strange}; list them in trust_types if you trust the file's origin")
