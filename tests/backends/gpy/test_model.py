"""Gaussian processes answer as GPy does, with gradients of their answers for every kernel."""

from __future__ import annotations

import gzip
import json
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import differences
import GPy
import numpy as np
import pytest
from art.defences.postprocessor import Rounded
from art.estimators.classification import GPyGaussianProcessClassifier
from GPy.likelihoods import Bernoulli
from GPy.likelihoods.link_functions import Cloglog, Heaviside

from gradwire.backends import gpy as backend
from gradwire.backends.capabilities import Answer, Operation, answers, capabilities
from gradwire.backends.config import Standardise
from gradwire.backends.errors import InvalidLayer, InvalidShape, ModelConfigError, Unsupported
from gradwire.backends.gpy.gradients import Analytic
from gradwire.backends.load import load as load_estimator

Array = Any
pytestmark = pytest.mark.filterwarnings("ignore:Your kernel has a different input dimension")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3))
Y = (X[:, :1] + 0.5 * X[:, 1:2] ** 2 > 0.3).astype(float)
ROWS = RNG.normal(size=(6, 3))
LABELS = np.array([0, 1, 1, 0, 1, 0])
SOFT = np.array([[0.2, 0.8], [1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.9, 0.1], [0.3, 0.7]])
kern = GPy.kern

ANALYTIC: dict[str, Any] = {
    "RBF": lambda: kern.RBF(3),
    "RBF with a length a feature": lambda: kern.RBF(3, ARD=True, lengthscale=[0.5, 1.0, 2.0]),
    "RBF of some features": lambda: kern.RBF(2, active_dims=[0, 2]),
    "Matern32": lambda: kern.Matern32(3),
    "Matern52": lambda: kern.Matern52(3),
    "Exponential": lambda: kern.Exponential(3),
    "RatQuad": lambda: kern.RatQuad(3),
    "Linear": lambda: kern.Linear(3),
    "MLP": lambda: kern.MLP(3),
    "StdPeriodic": lambda: kern.StdPeriodic(3),
    "sum": lambda: kern.RBF(3) + kern.White(3) + kern.Bias(3),
    "product": lambda: kern.RBF(1, active_dims=[0]) * kern.Linear(2, active_dims=[1, 2]),
    "product of three": lambda: kern.RBF(3) * kern.Linear(3) * kern.Matern52(3),
}
DIFFERENCES: dict[str, Any] = {
    "Poly": lambda: kern.Poly(3),
    "a part without": lambda: kern.RBF(3) + kern.Poly(3),
    "Brownian": lambda: kern.Brownian(1, active_dims=[0]),
    "PeriodicMatern32": lambda: kern.PeriodicMatern32(1, active_dims=[0]),
}


class WrongGradient(kern.RBF):
    """An owner's kernel whose derivative is wrong by a factor of two."""

    def gradients_X(self, dL_dK: Array, X: Array, X2: Array = None) -> Array:  # noqa: N802, N803
        return 2 * super().gradients_X(dL_dK, X, X2)


def process(kernel: Any = None, **options: Any) -> Any:
    return GPy.models.GPClassification(X, Y, kernel=kernel or kern.RBF(3), **options)


# One for all: GPy visits rows in a random order, so that two models of the same rows agree to 1e-5.
MODEL = process()


def config(factory: Any = process, **keys: Any) -> backend.Config:
    return backend.Config(backend="gpy", factory=factory, **{"input_shape": (3,), "nb_classes": 2, **keys})


def loaded(model: Any = None, **keys: Any) -> Any:
    made = MODEL if model is None else model
    return backend.load(config(lambda: made, **keys))


def predict(model: Any, x: Array = ROWS) -> Array:
    return model.predict(x, training_mode=False)


def assert_gradients_are_right(model: Any, rtol: float = 1e-6) -> None:
    """Comparison with central differences of the model's answers: truncation and rounding leave 1e-9 of the values."""

    def assert_close(actual: Array, expected: Array) -> None:
        np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol * np.abs(expected).max())

    numeric = differences.gradient(lambda x: predict(model, x), ROWS)
    assert_close(model.class_gradient(ROWS, None, training_mode=False), numeric)
    assert_close(model.class_gradient(ROWS, LABELS, training_mode=False)[:, 0], numeric[np.arange(6), LABELS])
    cotangent = np.random.default_rng(1).normal(size=(6, 2))
    assert_close(model.vjp(ROWS, cotangent, None, training_mode=False), np.einsum("nk,nkd->nd", cotangent, numeric))
    for y in (LABELS, SOFT):
        of_loss = differences.gradient(lambda x, y=y: model.loss(x, y, training_mode=False), ROWS)
        assert_close(model.loss_gradient(ROWS, y, training_mode=False), of_loss)
        assert_close(model.loss_from_predictions(predict(model), y), model.loss(ROWS, y, training_mode=False))


# Predictions and gradients.


def test_it_predicts_what_gpy_and_art_predict() -> None:
    # Without preprocessing=None, ART rounds rows to float32.
    model, art = loaded(), GPyGaussianProcessClassifier(MODEL, preprocessing=None)
    outputs = predict(model)
    assert (outputs.shape, outputs.dtype, outputs.flags.c_contiguous) == ((6, 2), np.float64, True)
    np.testing.assert_array_equal(outputs[:, :1], MODEL.predict(ROWS)[0])
    np.testing.assert_allclose(outputs, art.predict(ROWS), rtol=0, atol=1e-15)
    np.testing.assert_array_equal(model.logits(ROWS, training_mode=False), art.predict(ROWS, logits=True))
    np.testing.assert_array_equal(model.uncertainty(ROWS, training_mode=False), art.predict_uncertainty(ROWS))


def test_it_has_every_operation_on_rows_but_activations_and_no_fit() -> None:
    model = loaded()
    assert capabilities(model) == {
        Operation.PREDICT, Operation.LOSS, Operation.LOSS_GRADIENT, Operation.CLASS_GRADIENT, Operation.VJP,
    }  # fmt: skip
    assert answers(model) == {Answer.OUTPUTS, Answer.LOGITS, Answer.UNCERTAINTY}


@pytest.mark.parametrize("kernel", ANALYTIC.values(), ids=ANALYTIC.keys())
def test_gradients_are_exact_where_gpy_differentiates_the_kernel(kernel: Any) -> None:
    model = loaded(process(kernel()))
    assert isinstance(model._gradient, Analytic)
    assert not any("differences" in note for note in model.notes)
    assert_gradients_are_right(model)


@pytest.mark.parametrize("kernel", DIFFERENCES.values(), ids=DIFFERENCES.keys())
def test_other_kernels_have_central_differences_and_the_card_says_so(kernel: Any) -> None:
    model = loaded(process(kernel()))
    assert any("central differences" in note for note in model.notes)
    assert_gradients_are_right(model)


def test_a_kernel_whose_own_derivatives_are_wrong_has_differences() -> None:
    model = loaded(process(WrongGradient(3)))
    assert any("no correct ones for the kernel 'rbf'" in note for note in model.notes)
    assert_gradients_are_right(model)


@pytest.mark.parametrize("loss", ["one_minus_probability", "cross_entropy"])
@pytest.mark.parametrize("kernel", [kern.RBF, kern.Poly])
def test_both_losses_have_gradients(loss: str, kernel: Any) -> None:
    model = loaded(process(kernel(3)), loss=loss)
    assert_gradients_are_right(model)
    p = predict(model)[np.arange(6), LABELS]
    expected = 1 - p if loss == "one_minus_probability" else -np.log(p)
    np.testing.assert_allclose(model.loss(ROWS, LABELS, training_mode=False), expected, rtol=1e-12)


def test_analytic_gradients_are_those_that_gpys_own_make() -> None:
    plain = process(kern.Matern52(3))
    model = loaded(plain)
    (mean, variance), (of_mean, of_variance) = plain.predict_noiseless(ROWS), plain.predictive_gradients(ROWS)
    z = mean / np.sqrt(1 + variance)
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    expected = density * (of_mean[:, :, 0] / np.sqrt(1 + variance) - mean * of_variance / (2 * (1 + variance) ** 1.5))
    np.testing.assert_allclose(model.class_gradient(ROWS, np.zeros(6, int), training_mode=False)[:, 0], expected, rtol=1e-10)


def test_a_mean_function_and_other_links_and_few_inducing_rows_are_differentiated_too() -> None:
    mapping = GPy.mappings.Linear(3, 1)
    mapping.A[:] = [[0.5], [-1.0], [0.25]]
    sparse = GPy.models.SparseGPClassification(X, Y, Z=X[:12].copy())
    step = process(likelihood=Bernoulli(gp_link=Heaviside()))
    for made in (process(mean_function=mapping), sparse, step):
        model = loaded(made)
        assert isinstance(model._gradient, Analytic)
        np.testing.assert_allclose(predict(model)[:, :1], made.predict(ROWS)[0], rtol=1e-12)
        assert_gradients_are_right(model)


def test_a_laplace_approximation_is_differentiated_too() -> None:
    laplace = GPy.inference.latent_function_inference.Laplace()
    assert_gradients_are_right(loaded(process(inference_method=laplace)))


def test_cross_entropy_and_its_gradient_are_exact_where_probabilities_end() -> None:
    # Linear functions go on for ever: far out the probability of the other class is 0 in float64.
    model = loaded(process(kern.Linear(3) + kern.Bias(3, variance=1e-6)), loss="cross_entropy")
    x = 1e4 * X[:2]
    z = model._z(x)
    other = (z > 0).astype(int)
    loss = model.loss(x, other, training_mode=False)
    assert np.isfinite(loss).all()
    numeric = differences.gradient(lambda x: model.loss(x, other, training_mode=False), x, step=1.0)
    np.testing.assert_allclose(model.loss_gradient(x, other, training_mode=False), numeric, rtol=1e-4, atol=1e-9)


def test_many_features_are_differenced_in_parts() -> None:
    x = RNG.normal(size=(12, 60))
    y = (x[:, :1] > 0).astype(float)
    model = loaded(GPy.models.GPClassification(x, y, kernel=kern.Poly(60, scale=0.01)), input_shape=(60,))
    batch = RNG.normal(size=(40, 60))
    gradient = model.class_gradient(batch, np.zeros(40, int), training_mode=False)[:, 0]
    numeric = differences.gradient(lambda x: predict(model, x)[:, 0], batch[:2])
    np.testing.assert_allclose(gradient[:2], numeric, rtol=1e-5, atol=1e-6 * np.abs(numeric).max())


def test_rows_do_not_see_each_other_and_are_not_written_to() -> None:
    model = loaded(process(kern.RBF(3, ARD=True)))
    fixed = ROWS.copy()
    fixed.flags.writeable = False
    for compute in (
        lambda x, y: predict(model, x),
        lambda x, y: model.loss_gradient(x, y, training_mode=False),
        lambda x, y: model.class_gradient(x, None, training_mode=False),
    ):
        together = compute(fixed, LABELS)
        assert together.flags.c_contiguous
        one_by_one = np.concatenate([compute(fixed[i : i + 1], LABELS[i : i + 1]) for i in range(6)])
        np.testing.assert_allclose(one_by_one, together, rtol=1e-9, atol=1e-12)


def test_features_may_lie_in_several_axes() -> None:
    model = loaded(input_shape=(1, 3))
    x = ROWS[:, None]
    np.testing.assert_array_equal(predict(model, x), predict(loaded()))
    assert model.loss_gradient(x, LABELS, training_mode=False).shape == (6, 1, 3)
    assert model.class_gradient(x, None, training_mode=False).shape == (6, 2, 1, 3)


# Where ART's value is not ours.


def test_art_multiplies_differences_by_their_step_where_it_should_divide() -> None:
    art, model = GPyGaussianProcessClassifier(MODEL, preprocessing=None), loaded()
    theirs, ours = art.class_gradient(ROWS), model.class_gradient(ROWS, None, training_mode=False)
    # One-sided differences with a step of 1e-4: right to 1e-3, but for the factor.
    np.testing.assert_allclose(theirs * 1e8, ours, rtol=1e-3, atol=1e-3)
    assert np.abs(theirs).max() < 1e-7 * np.abs(ours).max()
    theirs, ours = art.loss_gradient(ROWS, np.eye(2)[LABELS]), model.loss_gradient(ROWS, LABELS, training_mode=False)
    np.testing.assert_allclose(theirs * 1e10, ours, rtol=1e-3, atol=1e-3)
    assert_gradients_are_right(model)


def test_art_preprocesses_rows_twice_in_gradients_of_gaussian_processes() -> None:
    mean, std = 0.3, 1.7
    art = GPyGaussianProcessClassifier(MODEL, preprocessing=(mean, std))
    estimator = load_estimator(config(lambda: MODEL, preprocessing=Standardise(mean=mean, std=std)))
    ours = estimator.loss_gradient(ROWS, LABELS)
    numeric = differences.gradient(lambda x: estimator.loss(x, LABELS), ROWS)
    np.testing.assert_allclose(ours, numeric, rtol=1e-6, atol=1e-9)
    theirs = art.loss_gradient(ROWS, np.eye(2)[LABELS]) * 1e10
    assert np.abs(theirs - ours).max() > 0.1 * np.abs(ours).max()
    # The gradient at rows that are standardised already, and once more on the way back; ART's standardisation rounds rows to
    # float32, of which a difference over 1e-5 shows the last digits.
    np.testing.assert_allclose(theirs, estimator.loss_gradient((ROWS - mean) / std, LABELS) / std, rtol=0.01, atol=0.005)


def test_art_postprocesses_logits_and_variances_of_gaussian_processes() -> None:
    art = GPyGaussianProcessClassifier(MODEL, preprocessing=None, postprocessing_defences=Rounded(decimals=1))
    np.testing.assert_allclose(art.predict(ROWS, logits=True), loaded().logits(ROWS, training_mode=False).round(1))
    np.testing.assert_allclose(art.predict_uncertainty(ROWS), loaded().uncertainty(ROWS, training_mode=False).round(1))
    estimator = load_estimator(config(lambda: MODEL, postprocessing_defences=[partial(Rounded, decimals=1)]))
    np.testing.assert_allclose(estimator.predict(ROWS), predict(loaded()).round(1))
    np.testing.assert_array_equal(estimator.answer(ROWS, Answer.LOGITS), loaded().logits(ROWS, training_mode=False))
    np.testing.assert_array_equal(estimator.answer(ROWS, Answer.UNCERTAINTY), loaded().uncertainty(ROWS, training_mode=False))
    with pytest.raises(Unsupported, match="has no members; it has logits, outputs, uncertainty"):
        estimator.answer(ROWS, Answer.MEMBERS)


# Files.


def saved(folder: Path, model: Any, **options: Any) -> Path:
    model.save_model(str(folder / "model"), **options)
    return next(folder.glob("model.*"))


@pytest.fixture(scope="module")
def optimised() -> Any:
    mapping = GPy.mappings.Linear(3, 1)
    mapping.A[:] = 0.1
    model = process(kern.RBF(3, ARD=True) + kern.Linear(3) * kern.Matern32(3), mean_function=mapping)
    model.optimize(max_iters=5)
    return model


@pytest.mark.parametrize("compress", [True, False])
def test_a_saved_model_needs_no_code(tmp_path: Path, optimised: Any, compress: bool) -> None:
    path = saved(tmp_path, optimised, compress=compress)
    model = loaded_from(path)
    np.testing.assert_allclose(predict(model), predict(loaded(optimised)), rtol=1e-9)
    assert_gradients_are_right(model)


def loaded_from(path: Path, **keys: Any) -> Any:
    return backend.load(config(**{"factory": None, "weights": path, **keys}))


def test_a_model_saved_without_its_data_takes_them_from_the_factory(tmp_path: Path, optimised: Any) -> None:
    path = saved(tmp_path, optimised, save_data=False)
    with pytest.raises(ModelConfigError, match="weights: .* saved without its training data; save them too, or set a factory"):
        loaded_from(path)
    np.testing.assert_allclose(predict(loaded_from(path, factory=process)), predict(loaded(optimised)), rtol=1e-9)


def test_saved_parameters_go_into_the_factorys_model(tmp_path: Path) -> None:
    kernel = kern.RBF(3, variance=2.5, lengthscale=0.8)
    np.save(tmp_path / "model.npy", process(kernel).param_array)
    model = loaded_from(tmp_path / "model.npy", factory=process)
    # The approximation is made anew, in another random order: it stops when it changes by less than 1e-3.
    np.testing.assert_allclose(predict(model), predict(loaded(process(kernel.copy()))), atol=2e-3)
    assert np.abs(predict(model) - predict(loaded())).max() > 0.02


def test_a_pickle_is_read_only_on_the_operators_word(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(MODEL))
    with pytest.raises(ModelConfigError, match="is a pickle, which runs code"):
        loaded_from(path)
    np.testing.assert_allclose(predict(loaded_from(path, trust_pickle=True)), predict(loaded()), rtol=1e-9)


@pytest.mark.parametrize("place", ["", "kernel", "likelihood", "inference_method", "mean_function", "strange"])
@pytest.mark.parametrize("name", ["__import__('pathlib').Path('ran').touch()", "GPy.kern.src.kern.np.save", ["GPy.core.GP"], None])
def test_a_forged_file_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, name: Any) -> None:
    monkeypatch.chdir(tmp_path)
    content = process(kern.RBF(3) + kern.White(3), mean_function=GPy.mappings.Linear(3, 1)).to_dict()
    (content.setdefault(place, {}) if place else content)["class"] = name
    (tmp_path / "model.json").write_text(json.dumps(content))
    with pytest.raises(ModelConfigError, match="weights: .* which is not part of a GPClassification"):
        loaded_from(tmp_path / "model.json")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("model.json", b"{", "is not a file of GPy's save_model"),
        ("model.json", b"[" * 100_000, "is not a file of GPy's save_model"),
        ("model.json", b"3", "holds int"),
        (
            "model.json",
            b'{"class": "GPy.models.GPClassification", "name": "m", "X": [[1]], "Y": [[1]]}',
            "cannot be made into a GPClassification",
        ),
        ("model.zip", b"{}", "is not a file of GPy's save_model"),
        ("model.zip", gzip.compress(b"\xff\xfe", mtime=0), "is not a file of GPy's save_model"),
        ("model.zip", gzip.compress(b"{}" * 99, mtime=0)[:-9], "is not a file of GPy's save_model"),
        ("model.npy", b"", "is not a .npy file of numbers"),
        ("model.npy", pickle.dumps([1.0]), "is not a .npy file of numbers"),
        ("model.h5", b"", "has no known format"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelConfigError, match=f"weights: .*{problem}"):
        loaded_from(tmp_path / name, factory=process)


def test_parameters_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.npy"
    for values, problem in (
        (np.ones(3), r"holds float64 \(3,\); the factory's model has 2 parameters: rbf.variance, rbf.lengthscale"),
        (np.array(["a", "b"]), "holds <U1"),
        (np.array([np.nan, 1.0]), "no posterior for"),
    ):
        np.save(path, values)
        with pytest.raises(ModelConfigError, match=problem):
            loaded_from(path, factory=process)
    with pytest.raises(ModelConfigError, match="holds parameters alone"):
        loaded_from(path)
    with pytest.raises(ModelConfigError, match="does not exist"):
        loaded_from(tmp_path / "other.npy", factory=process)


# Configuration and bad input.


@pytest.mark.parametrize(
    ("made", "keys", "problem"),
    [
        (lambda: 3, {}, "factory: gave int; expected a GPy.models.GPClassification"),
        (lambda: GPy.models.GPRegression(X, Y), {}, "factory: gave GPRegression"),
        (process, {"nb_classes": 3}, "nb_classes: 3; a GPClassification has 2 classes"),
        (process, {"input_shape": (4,)}, r"input_shape: \[4\]; the model was fitted on 3 features"),
        (process, {"task": "regression"}, "task: 'regression'"),
        (process, {"device": "cuda"}, "device: 'cuda'; GPy runs on the cpu"),
        (process, {"output": "logits"}, "output: 'logits'; a GPClassification has probabilities"),
        (
            lambda: process(
                likelihood=Bernoulli(gp_link=Cloglog()), inference_method=GPy.inference.latent_function_inference.Laplace()
            ),
            {},
            "the likelihood Bernoulli and the link Cloglog; expected Bernoulli with Probit",
        ),
    ],
)
def test_a_wrong_configuration_says_which_key_is_wrong(made: Any, keys: dict[str, Any], problem: str) -> None:
    with pytest.raises(ModelConfigError, match=problem):
        backend.load(config(made, **keys))


def test_a_model_from_nowhere_is_refused() -> None:
    with pytest.raises(ValueError, match="neither factory nor weights"):
        config(None)


def test_inputs_that_no_model_takes_are_named() -> None:
    model = loaded(input_shape=(-1,))
    with pytest.raises(InvalidShape, match="x has 2 features; the model was fitted on 3"):
        predict(model, ROWS[:, :2])
    with pytest.raises(InvalidLayer, match="Gaussian processes have no layers"):
        model.vjp(ROWS, np.ones((6, 2)), 0, training_mode=False)
