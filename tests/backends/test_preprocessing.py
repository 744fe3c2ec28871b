"""Preprocessing and the way back through it, with ART's own defences."""

from __future__ import annotations

from typing import Any

import differences
import numpy as np
import pytest

from gradwire.backends.errors import InvalidShape, InvalidValue, ModelFailed
from gradwire.backends.preprocessing import Preprocessing, Standardisation, postprocess

F64 = np.dtype(np.float64)
IMAGES = np.random.default_rng(0).random((2, 3, 4, 4))


class Square:
    """A smooth defence with a true gradient."""

    apply_fit, apply_predict = False, True

    def __call__(self, x: np.ndarray, y: Any = None) -> tuple[np.ndarray, Any]:
        return x**2, y

    def estimate_gradient(self, x: np.ndarray, grad: np.ndarray) -> np.ndarray:
        assert grad.shape == x.shape
        return 2 * x * grad


class Sine(Square):
    def __call__(self, x: np.ndarray, y: Any = None) -> tuple[np.ndarray, Any]:
        return np.sin(x), y

    def estimate_gradient(self, x: np.ndarray, grad: np.ndarray) -> np.ndarray:
        assert grad.shape == x.shape
        return np.cos(x) * grad


class Mixed(Square):
    """Does not act on each element for itself, so that it does not commute with the others."""

    matrix = np.random.default_rng(7).normal(size=(4, 4))

    def __call__(self, x: np.ndarray, y: Any = None) -> tuple[np.ndarray, Any]:
        return x @ self.matrix, y

    def estimate_gradient(self, x: np.ndarray, grad: np.ndarray) -> np.ndarray:
        assert grad.shape == x.shape
        return grad @ self.matrix.T


class Twice:
    """Augments: rows and labels twice, in a fit."""

    def __init__(self, apply_predict: bool = False) -> None:
        self.apply_fit, self.apply_predict = True, apply_predict

    def __call__(self, x: np.ndarray, y: Any = None) -> tuple[np.ndarray, Any]:
        return np.concatenate([x, x]), None if y is None else np.concatenate([y, y])

    def estimate_gradient(self, x: np.ndarray, grad: np.ndarray) -> np.ndarray:
        return grad


@pytest.mark.parametrize(
    ("mean", "std", "placed"),
    [
        (0.5, 2.0, ((), ())),
        ([0.1, 0.2, 0.3], [1.0, 2.0, 4.0], ((3, 1, 1), (3, 1, 1))),
        ([0.1, 0.2, 0.3, 0.4], 2.0, ((4,), ())),
        (np.full((4, 4), 0.1), [2.0], ((4, 4), (1,))),
        (np.full((3, 4, 4), 0.1), np.full((3, 1, 1), 2.0), ((3, 4, 4), (3, 1, 1))),
    ],
)
def test_standardisation_runs_along_the_axis_that_fits(mean: Any, std: Any, placed: Any) -> None:
    s = Standardisation.of(mean, std, (3, 4, 4), F64)
    assert (s.mean.shape, s.std.shape) == placed
    full = [np.broadcast_to(np.reshape(v, shape), (3, 4, 4)) for v, shape in zip((mean, std), placed, strict=True)]
    np.testing.assert_allclose(s(IMAGES), (IMAGES - full[0]) / full[1], rtol=1e-14)
    np.testing.assert_allclose(s.gradient(IMAGES), IMAGES / full[1], rtol=1e-14)


def test_vector_as_long_as_both_axes_runs_along_the_last_as_in_art() -> None:
    assert Standardisation.of([1.0, 2.0, 3.0], 1.0, (3, 5, 3), F64).mean.shape == (3,)


def test_channels_of_images_of_any_size_can_be_standardised() -> None:
    assert Standardisation.of([1.0, 2.0, 3.0], 1.0, (3, -1, -1), F64).mean.shape == (3, 1, 1)


@pytest.mark.parametrize("value", [np.ones(5), np.ones((2, 1, 1)), np.ones((3, 4, 4, 1)), np.ones((5, 3, 4, 4))])
def test_values_that_fit_no_axis_are_refused(value: np.ndarray) -> None:
    for mean, std in ((value, 1.0), (0.0, value)):
        with pytest.raises(InvalidShape, match=r"\(3, 4, 4\)"):
            Standardisation.of(mean, std, (3, 4, 4), F64)


def test_values_that_would_enlarge_a_row_are_refused() -> None:
    with pytest.raises(InvalidShape, match=r"mean has shape \(3, 4, 4\)"):
        Standardisation.of(np.ones((3, 4, 4)), 1.0, (1, 4, 4), F64)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.0), (np.nan, 1.0), (0.0, np.inf), (0.0, [1.0, 0.0, 1.0])])
def test_values_that_make_no_finite_inputs_are_refused(mean: Any, std: Any) -> None:
    with pytest.raises(InvalidValue):
        Standardisation.of(mean, std, (3, 4, 4), F64)


def test_model_inputs_have_the_models_dtype() -> None:
    f32 = np.dtype(np.float32)
    chain = Preprocessing([Square()], Standardisation.of(0.5, 2.0, (3, 4, 4), f32), f32)
    assert chain(IMAGES).dtype == f32
    assert chain.gradient(IMAGES, np.ones_like(IMAGES)).dtype == f32
    assert Preprocessing([], None, np.dtype(np.int64))(np.ones((2, 3), np.uint8)).dtype == np.int64


@pytest.mark.parametrize("defences", [[], [Square()], [Square(), Sine()], [Sine(), Mixed(), Square()]])
@pytest.mark.parametrize("std", [2.0, [1.0, 2.0, 4.0]])
def test_gradient_of_the_chain_agrees_with_differences(defences: list[Any], std: Any) -> None:
    chain = Preprocessing(defences, Standardisation.of(0.5, std, (3, 4, 4), F64), F64)
    weights = np.random.default_rng(1).normal(size=(5, 3, 4, 4))  # Five outputs, linear in the model inputs.
    expected = differences.gradient(lambda x: np.einsum("kchw,nchw->nk", weights, chain(x)), IMAGES)
    several = chain.gradient(IMAGES, np.broadcast_to(weights, (2, *weights.shape)))
    np.testing.assert_allclose(several, expected, rtol=1e-7, atol=1e-9)
    one = chain.gradient(IMAGES, np.broadcast_to(weights[3], IMAGES.shape))
    np.testing.assert_allclose(one, expected[:, 3], rtol=1e-7, atol=1e-9)


def test_caller_can_replace_the_standardisation_of_one_call() -> None:
    chain = Preprocessing([Square()], Standardisation.of(0.5, 2.0, (3, 4, 4), F64), F64)
    own = Standardisation.of(0.0, 4.0, (3, 4, 4), F64)
    np.testing.assert_allclose(chain(IMAGES, own), IMAGES**2 / 4, rtol=1e-14)
    np.testing.assert_allclose(chain.gradient(IMAGES, np.ones_like(IMAGES), own), IMAGES / 2, rtol=1e-14)
    np.testing.assert_allclose(chain(IMAGES), (IMAGES**2 - 0.5) / 2, rtol=1e-14)


def test_defences_of_a_fit_may_add_rows_and_those_of_predict_may_not() -> None:
    x, y = Preprocessing([Twice()], None, F64).for_fit(IMAGES, np.eye(2))
    assert (len(x), len(y)) == (4, 4)
    np.testing.assert_array_equal(Preprocessing([Twice()], None, F64)(IMAGES), IMAGES)
    with pytest.raises(ModelFailed, match="Twice made 4 rows of 2"):
        Preprocessing([Twice(apply_predict=True)], None, F64)(IMAGES)


class Rounded:
    """A postprocessor that works in place."""

    def __init__(self, apply_predict: bool) -> None:
        self.apply_predict = apply_predict

    def __call__(self, preds: np.ndarray) -> np.ndarray:
        preds[:] = preds.round(1)
        return preds


def test_postprocessing_applies_to_a_copy_and_only_where_it_says_so() -> None:
    raw = np.array([[0.123, 0.877]])
    np.testing.assert_array_equal(postprocess([Rounded(True)], raw), [[0.1, 0.9]])
    np.testing.assert_array_equal(postprocess([Rounded(False)], raw), [[0.123, 0.877]])
    np.testing.assert_array_equal(raw, [[0.123, 0.877]])


@pytest.fixture(scope="module")
def art_preprocessors() -> Any:
    from art.defences import preprocessor

    return preprocessor


def test_chain_of_arts_defences_is_arts_own(art_preprocessors: Any) -> None:
    squeezing = art_preprocessors.FeatureSqueezing(clip_values=(0.0, 1.0), bit_depth=2)
    smoothing = art_preprocessors.SpatialSmoothing(window_size=3, channels_first=True)
    f32 = np.dtype(np.float32)
    x = IMAGES.astype(np.float32)
    chain = Preprocessing([squeezing, smoothing], Standardisation.of(0.5, 2.0, (3, 4, 4), f32), f32)
    np.testing.assert_allclose(chain(x), (smoothing(squeezing(x)[0])[0] - 0.5) / 2, rtol=1e-6)
    # Neither defence has a gradient: ART passes it through.
    np.testing.assert_allclose(chain.gradient(x, np.ones_like(x)), np.full(x.shape, 0.5), rtol=1e-6)
