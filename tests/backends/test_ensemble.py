"""Ensembles: sums of members of different frameworks, each with its own preprocessing and precision."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from art.estimators.classification import EnsembleClassifier, PyTorchClassifier
from conformance.case import Halve
from differences import gradient
from pydantic import ValidationError
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.svm import SVC

import models
from gradwire.backends import blackbox, ensemble, sklearn
from gradwire.backends import torch as torch_backend
from gradwire.backends.backend import Array
from gradwire.backends.capabilities import Operation
from gradwire.backends.errors import InvalidLabel, InvalidLayer, ModelConfigError, ModelFailed, Unsupported
from gradwire.backends.estimator import Estimator
from gradwire.backends.load import load
from gradwire.backends.training import FitOptions

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.random((9, 6)), np.arange(9) % 4
SOFT = RANDOM.dirichlet(np.ones(4), 9)
SHAPE: dict[str, Any] = {"input_shape": (6,), "nb_classes": 4}
CROSS_ENTROPY = "torch.nn.CrossEntropyLoss"
LOGISTIC = LogisticRegression().fit(RANDOM.random((60, 6)), np.arange(60) % 4)


def torch_member(seed: int = 0, **keys: Any) -> Estimator:
    given: dict[str, Any] = {"factory": lambda: models.mlp(seed=seed), "loss": CROSS_ENTROPY, **SHAPE, **keys}
    return load(torch_backend.Config(backend="torch", **given))


def sklearn_member(factory: Callable[[], Any] = lambda: copy.deepcopy(LOGISTIC), **keys: Any) -> Estimator:
    given: dict[str, Any] = {"output": "logits", **SHAPE, **keys}
    return load(sklearn.Config(backend="sklearn", factory=factory, **given))


def callable_member(function: Callable[[Any], Any], **keys: Any) -> Estimator:
    return load(blackbox.Config(backend="blackbox", factory=lambda: function, output="logits", **SHAPE, **keys))


def joined(members: dict[str, Estimator], **keys: Any) -> Estimator:
    return load(ensemble.Config(backend="ensemble", members=list(members), **keys), members)


@pytest.fixture
def members() -> dict[str, Estimator]:
    """Two frameworks; one with a defence and standardisation in front, the other with its own standardisation."""
    return {
        "net": torch_member(preprocessing={"mean": 0.4, "std": 0.5}, preprocessing_defences=[Halve]),
        "logistic": sklearn_member(preprocessing={"mean": 0.1, "std": [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]}),
    }


@pytest.fixture
def both(members: dict[str, Estimator]) -> Estimator:
    return joined(members, member_weights=[0.7, 0.3])


def weighted(members: dict[str, Estimator], operation: Callable[[Estimator], Array]) -> Array:
    net, logistic = (operation(member) for member in members.values())
    return 0.7 * net + 0.3 * logistic


def test_outputs_are_the_weighted_sum_of_the_members(members: dict[str, Estimator], both: Estimator) -> None:
    np.testing.assert_array_equal(both.predict(X), weighted(members, lambda m: m.predict(X)))
    alike = joined(members).predict(X)
    np.testing.assert_allclose(alike, np.mean([m.predict(X) for m in members.values()], axis=0), rtol=1e-15)


def test_what_is_added_up_can_be_asked_for(members: dict[str, Estimator], both: Estimator) -> None:
    parts = both.model.members(X, training_mode=False)  # type: ignore[attr-defined]
    assert parts.shape == (9, 2, 4)
    np.testing.assert_allclose(parts[:, 0], 0.7 * members["net"].predict(X))
    np.testing.assert_allclose(parts[:, 1], 0.3 * members["logistic"].predict(X))
    np.testing.assert_allclose(parts.sum(axis=1), both.predict(X), rtol=1e-15)


@pytest.mark.parametrize("y", [Y, SOFT], ids=["indices", "soft"])
def test_losses_are_added_row_by_row(members: dict[str, Estimator], both: Estimator, y: Array) -> None:
    np.testing.assert_allclose(both.loss(X, y), weighted(members, lambda m: m.loss(X, y)), rtol=1e-15)
    assert both.loss_divisor(y) == 9


@pytest.mark.parametrize("y", [Y, SOFT], ids=["indices", "soft"])
def test_the_loss_gradient_is_that_of_the_mean_of_the_rows(both: Estimator, y: Array) -> None:
    # In float64: truncation 1e-10, rounding 1e-11.
    expected = gradient(lambda x: both.loss(x, y), X) / 9
    np.testing.assert_allclose(both.loss_gradient(X, y), expected, rtol=1e-6, atol=1e-9)
    of_block = both.loss_gradient(X[:4], y[:4], divisor=9)
    np.testing.assert_allclose(of_block, expected[:4], rtol=1e-6, atol=1e-9)


def test_class_gradients_and_products_are_those_of_the_outputs(both: Estimator) -> None:
    expected = gradient(both.predict, X)
    gradients = both.class_gradient(X, None)
    np.testing.assert_allclose(gradients, expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(both.class_gradient(X, Y)[:, 0], expected[np.arange(9), Y], rtol=1e-6, atol=1e-9)
    cotangent = RANDOM.normal(size=(9, 4))
    np.testing.assert_allclose(both.vjp(X, cotangent), np.einsum("nc,nci->ni", cotangent, gradients), rtol=1e-12)
    with pytest.raises(InvalidLayer, match="no layers"):
        both.vjp(X, cotangent, layer="0")


def test_a_member_whose_loss_sums_counts_as_one_whose_loss_is_a_mean() -> None:
    summed = {"path": CROSS_ENTROPY, "args": {"reduction": "sum"}}
    members = {"mean": torch_member(0), "sum": torch_member(1, loss=summed)}
    both = joined(members)
    assert both.model.loss_reduction == "mean"
    np.testing.assert_allclose(both.loss_gradient(X, Y), gradient(lambda x: both.loss(x, Y), X) / 9, rtol=1e-6, atol=1e-9)


def test_class_weights_of_a_member_weigh_its_rows() -> None:
    weights = torch.tensor([1.0, 5.0, 0.5, 2.0], dtype=torch.float64)
    members = {"plain": torch_member(0), "weighted": torch_member(1, loss={"path": CROSS_ENTROPY, "args": {"weight": weights}})}
    both = joined(members)
    np.testing.assert_allclose(both.loss(X, Y), 0.5 * members["plain"].loss(X, Y) + 0.5 * members["weighted"].loss(X, Y))
    np.testing.assert_allclose(both.loss_gradient(X, Y), gradient(lambda x: both.loss(x, Y), X) / 9, rtol=1e-6, atol=1e-9)


def test_members_get_rows_in_their_own_precision_and_sums_are_in_the_wider_one() -> None:
    seen: list[Any] = []

    def note(x: Any) -> Any:
        seen.append(x.dtype)
        return np.zeros((len(x), 4), np.float32)

    single = torch_member(factory=lambda: models.mlp(dtype="float32"))
    black_box = callable_member(note)
    narrow = joined({"single": single, "black": black_box})
    assert (narrow.model.input_dtype, narrow.predict(X).dtype) == (np.float32, np.float32)
    wide = joined({"single": single, "black": black_box, "logistic": sklearn_member()})
    assert (wide.model.input_dtype, wide.predict(X).dtype) == (np.float64, np.float64)
    assert set(seen) == {np.dtype(np.float32)}
    gradients = joined({"single": single, "double": torch_member(1)}).loss_gradient(X, Y)
    assert gradients.dtype == np.float64


def test_a_defence_that_works_in_place_does_not_reach_the_next_member() -> None:
    class InPlace(Halve):
        def __call__(self, x: Any, y: Any = None) -> tuple[Any, Any]:
            x *= 0.5
            return x, y

    first, second = torch_member(0, preprocessing_defences=[InPlace]), torch_member(1)
    rows = X.copy()
    outputs = joined({"first": first, "second": second}).predict(rows)
    np.testing.assert_array_equal(rows, X)
    np.testing.assert_allclose(outputs, 0.5 * first.predict(X.copy()) + 0.5 * second.predict(X), rtol=1e-15)


def test_postprocessing_comes_after_the_sum_and_that_of_members_before() -> None:
    from art.defences.postprocessor import ClassLabels, Rounded

    rounded = {"path": "art.defences.postprocessor.Rounded", "args": {"decimals": 1}}
    members = {"one": torch_member(0, postprocessing_defences=[rounded]), "two": torch_member(1)}
    labels = {"path": "art.defences.postprocessor.ClassLabels", "args": {}}
    both = joined(members, postprocessing_defences=[labels])
    total = 0.5 * Rounded(1)(torch_member(0).predict(X)) + 0.5 * torch_member(1).predict(X)
    np.testing.assert_array_equal(both.predict(X), ClassLabels()(total))
    assert any("before their postprocessing" in note for note in both.model.notes)


def test_an_ensemble_may_be_a_member(members: dict[str, Estimator], both: Estimator) -> None:
    outer = joined({"both": both, "net": members["net"]}, member_weights=[0.5, 0.5])
    assert outer.model.loss_name == "0.5 * (0.7 * CrossEntropyLoss + 0.3 * cross-entropy) + 0.5 * CrossEntropyLoss"
    np.testing.assert_allclose(outer.predict(X), 0.5 * both.predict(X) + 0.5 * members["net"].predict(X), rtol=1e-15)
    np.testing.assert_allclose(outer.loss_gradient(X, Y), gradient(lambda x: outer.loss(x, Y), X) / 9, rtol=1e-6, atol=1e-9)


def test_models_with_one_output_and_regressions_can_be_added_up() -> None:
    binary = {"nb_classes": 2, "loss": "torch.nn.BCEWithLogitsLoss"}
    two = {str(seed): torch_member(factory=lambda seed=seed: models.mlp(nb_outputs=1, seed=seed), **binary) for seed in (0, 1)}
    both = joined(two)
    assert both.output_shape == (1,)
    labels = both.predict(X, labels_only=True)
    np.testing.assert_array_equal(labels.argmax(1), both.predict(X)[:, 0] > 0)

    line = LinearRegression().fit(X, X.sum(1))
    regression = {"task": "regression", "nb_classes": 1}
    lines = {
        "line": sklearn_member(lambda: line, output=None, **regression),
        "net": torch_member(factory=lambda: models.mlp(nb_outputs=1), loss="torch.nn.MSELoss", **regression),
    }
    mean = joined(lines)
    assert (mean.config.task, mean.model.output_kind) == ("regression", "values")
    np.testing.assert_allclose(mean.predict(X), 0.5 * lines["line"].predict(X) + 0.5 * lines["net"].predict(X))


def test_it_can_do_what_all_of_its_members_can() -> None:
    def capabilities(**members: Estimator) -> frozenset[Operation]:
        return joined(members).capabilities

    gradients = {Operation.PREDICT, Operation.LOSS, Operation.LOSS_GRADIENT, Operation.CLASS_GRADIENT, Operation.VJP}
    net, black_box = torch_member(optimizer="torch.optim.SGD"), callable_member(lambda x: np.zeros((len(x), 4)))
    assert capabilities(net=net, logistic=sklearn_member()) == gradients
    assert capabilities(net=net, no_loss=torch_member(loss=None)) == {
        Operation.PREDICT,
        Operation.CLASS_GRADIENT,
        Operation.VJP,
    }
    assert capabilities(net=net, black_box=black_box) == {Operation.PREDICT}
    mixed = joined({"net": net, "black_box": black_box})
    assert mixed.model.loss_name == ""
    assert mixed.model.may_wait
    with pytest.raises(Unsupported, match="no loss_gradient; it has predict"):
        mixed.loss_gradient(X, Y)
    with pytest.raises(Unsupported, match="no fit"):
        mixed.fit(X, Y, FitOptions())


def test_the_loss_of_an_ensemble_is_not_one_of_its_outputs(both: Estimator) -> None:
    with pytest.raises(Unsupported, match="no loss of predictions"):
        both.loss_from_predictions(both.predict(X), Y)


def test_a_fit_of_a_member_is_one_of_the_ensemble() -> None:
    members = {"net": torch_member(optimizer="torch.optim.SGD"), "logistic": sklearn_member()}
    both = joined(members)
    before = both.predict(X)
    assert both.version == "initial"
    list(members["net"].fit(X, Y, FitOptions(nb_epochs=2)))
    assert both.version == "net(fit-1) logistic(initial)"
    assert not np.allclose(both.predict(X), before)
    np.testing.assert_allclose(both.predict(X), 0.5 * members["net"].predict(X) + 0.5 * members["logistic"].predict(X))
    members["net"].reset()
    assert both.version == "initial"
    np.testing.assert_array_equal(both.predict(X), before)


def test_a_member_that_has_not_been_fitted_may_be_fitted_later() -> None:
    members = {"net": torch_member(), "logistic": sklearn_member(LogisticRegression)}
    both = joined(members)
    assert not both.model.fitted
    with pytest.raises(Unsupported, match="member 'logistic': LogisticRegression has not been fitted"):
        both.predict(X)
    list(members["logistic"].fit(X, Y, FitOptions()))
    assert both.model.fitted
    assert both.predict(X).shape == (9, 4)


def test_the_card_says_what_it_is_made_of(both: Estimator) -> None:
    assert both.model.notes[0] == "a weighted sum of net (0.7), logistic (0.3); a fit of one changes it"
    black_box = joined({"black box": callable_member(lambda x: np.zeros((len(x), 4)))})
    assert black_box.model.notes[1] == "black box: a black box: training mode changes nothing"
    assert both.model.loss_name == "0.7 * CrossEntropyLoss + 0.3 * cross-entropy"
    assert both.model.device == "cpu"
    assert both.model.layer_names == []


def test_an_error_names_its_member() -> None:
    def fails(x: Any) -> Any:
        if x.flat[0] < 0:
            raise RuntimeError("out of ideas")
        return np.zeros((len(x), 4))

    with pytest.raises(ModelFailed, match="member 'black box': the model raised RuntimeError in predict: out of ideas"):
        joined({"net": torch_member(), "black box": callable_member(fails)}).predict(-X)
    margin = torch_member(loss="torch.nn.MultiMarginLoss")
    with pytest.raises(InvalidLabel, match="member 'margin': .*MultiMargin"):
        joined({"net": torch_member(), "margin": margin}).loss(X, SOFT)


def test_members_that_come_apart_are_not_added_up() -> None:
    answers = {"classes": 4}
    black_box = callable_member(lambda x: np.zeros((len(x), answers["classes"])))
    both = joined({"net": torch_member(), "black box": black_box})
    answers["classes"] = 1
    with pytest.raises(ModelFailed, match=r"'black box' answers \(9, 1\), those before it \(9, 4\)"):
        both.predict(X)


def test_what_members_agree_on_need_not_be_said() -> None:
    image = {"clip_values": (0.0, 1.0), "channels_first": True}
    config = joined({"one": torch_member(**image, max_batch_rows=32), "two": torch_member(1)}).config
    assert (config.input_shape, config.nb_classes, config.task) == ((6,), 4, "classification")
    assert (config.clip_values, config.channels_first, config.max_batch_rows) == ((0.0, 1.0), True, 32)
    other = {"one": torch_member(**image), "two": torch_member(1, clip_values=(0.0, 2.0))}
    assert joined(other, clip_values=(0.0, 2.0)).config.clip_values == (0.0, 2.0)
    recurrent = torch_member(factory=lambda: models.Recurrent(), input_shape=(-1, 3))
    assert joined({"any": recurrent}, input_shape=(7, 3)).config.input_shape == (7, 3)
    assert joined({"any": recurrent}).config.input_shape == (-1, 3)


NARROW = dict(factory=lambda: models.mlp(5), input_shape=(5,))


@pytest.mark.parametrize(
    ("others", "keys", "wrong"),
    [
        ({"b": NARROW}, {}, r"input_shape: differs between the members: a \[6\], b"),
        ({"b": NARROW}, {"input_shape": (6,)}, r"input_shape: given .* 'b' takes \[5\]"),
        ({"b": dict(nb_classes=3, factory=lambda: models.mlp(nb_outputs=3))}, {}, r"members: nb_classes differs: a 4, b 3"),
        ({"b": dict(task="regression", loss="torch.nn.MSELoss")}, {}, "members: task differs: a classification, b regression"),
        ({"b": dict(clip_values=(0, 1)), "c": dict(clip_values=(0, 2))}, {}, "clip_values: differs .* set it for the ensemble"),
        ({"b": dict(channels_first=True), "c": dict(channels_first=False)}, {}, "channels_first: differs"),
        ({}, {"nb_classes": 5}, "nb_classes: given 5; the members have 4"),
        ({}, {"task": "regression"}, "task: given 'regression'; the members have 'classification'"),
        ({"b": dict(output="probabilities")}, {}, "members: outputs are a logits, b probabilities; expected all logits or all"),
        ({}, {"member_weights": [2.0], "output": "probabilities"}, r"member_weights: \[2.0\] add up to 2; "),
    ],
)  # fmt: skip
def test_members_that_cannot_be_added_up_are_refused_by_the_key(others: Any, keys: dict[str, Any], wrong: str) -> None:
    members = {"a": torch_member(), **{name: torch_member(**given) for name, given in others.items()}}
    with pytest.raises(ModelConfigError, match=wrong):
        joined(members, **keys)


def test_logits_and_labels_are_not_added_up_unless_the_owner_says_what_comes_out() -> None:
    members = {"net": torch_member(), "svc": sklearn_member(lambda: SVC().fit(X, Y), output=None)}
    with pytest.raises(ModelConfigError, match="outputs are net logits, svc labels"):
        joined(members)
    with pytest.raises(ModelConfigError, match="outputs are svc labels"):
        joined({"svc": members["svc"]})
    votes = joined(
        {"svc": members["svc"], "bayes": sklearn_member(lambda: GaussianNB().fit(X, Y), output=None)}, output="probabilities"
    )
    assert votes.model.output_kind == "probabilities"
    np.testing.assert_allclose(votes.predict(X).sum(1), 1)


def test_models_with_one_output_and_with_two_are_not_added_up() -> None:
    two = torch_member(factory=lambda: models.mlp(nb_outputs=2), nb_classes=2)
    one = torch_member(factory=lambda: models.mlp(nb_outputs=1), nb_classes=2, loss="torch.nn.BCEWithLogitsLoss")
    with pytest.raises(ModelConfigError, match=r"members: a row has outputs of shapes two \[2\], one \[1\]"):
        joined({"two": two, "one": one})


def test_whole_numbers_and_floats_are_not_fed_with_the_same_rows() -> None:
    words = torch_member(factory=models.Embedded, input_shape=(7,), input_dtype="int64", nb_classes=3)
    floats = torch_member(factory=lambda: models.mlp(7, 3), input_shape=(7,), nb_classes=3)
    with pytest.raises(ModelConfigError, match="members: some take integers and some floats: words int64, floats float64"):
        joined({"words": words, "floats": floats})
    assert joined({"words": words}).predict(np.ones((2, 7), np.int64)).shape == (2, 3)


@pytest.mark.parametrize(
    ("keys", "wrong"),
    [
        ({"members": []}, "members"),
        ({"members": ["a", "a"]}, "members\n.*'a' is listed twice"),
        ({"member_weights": [1.0]}, "member_weights\n.*one finite number for each of the 2 members"),
        ({"member_weights": [1.0, float("nan")]}, "member_weights\n.*one finite number"),
        ({"weights": "w.safetensors"}, "weights\n.*member_weights.; leave the key out"),
        ({"device": "cuda:0"}, "device\n.*none of its own"),
        ({"preprocessing": {"mean": 0.5}}, "preprocessing\n.*none of its own"),
        ({"preprocessing_defences": [Halve]}, "preprocessing_defences\n.*none of its own"),
        ({"nb_classes": 1}, "nb_classes is 1"),
        ({"factory": "a:b"}, "factory\n.*not permitted"),
    ],
)
def test_a_wrong_key_is_named(keys: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ValidationError, match=wrong):
        ensemble.Config(**{"backend": "ensemble", "members": ["a", "b"], **keys})


def test_a_member_that_is_not_there_is_named() -> None:
    with pytest.raises(ModelConfigError, match="members: 'b' is not a loaded model; loaded are: a"):
        load(ensemble.Config(backend="ensemble", members=["a", "b"]), {"a": torch_member()})


# In-process ART.


def art_member(seed: int, reduction: str = "mean") -> PyTorchClassifier:
    loss = torch.nn.CrossEntropyLoss(reduction=reduction)
    return PyTorchClassifier(models.mlp(seed=seed, dtype="float32"), loss, (6,), 4, device_type="cpu", channels_first=False)


def pair(**keys: Any) -> dict[str, Estimator]:
    def factory(seed: int) -> Any:
        return lambda: models.mlp(seed=seed, dtype="float32")

    return {"0": torch_member(factory=factory(0)), "1": torch_member(factory=factory(1), **keys)}


def test_values_are_those_of_arts_ensemble() -> None:
    theirs = EnsembleClassifier([art_member(0), art_member(1)], [0.7, 0.3])
    ours = joined(pair(), member_weights=[0.7, 0.3])
    x, one_hot = X.astype(np.float32), np.eye(4)[Y]
    # Sums of float32 in another order.
    close = {"rtol": 1e-5, "atol": 1e-7}
    np.testing.assert_allclose(ours.predict(x), theirs.predict(x), **close)
    parts = ours.model.members(x, training_mode=False)  # type: ignore[attr-defined]
    np.testing.assert_allclose(parts.swapaxes(0, 1), theirs.predict(x, raw=True), **close)
    np.testing.assert_allclose(ours.loss_gradient(x, Y), theirs.loss_gradient(x, one_hot), **close)
    np.testing.assert_allclose(ours.class_gradient(x, None), theirs.class_gradient(x), **close)
    np.testing.assert_allclose(ours.class_gradient(x, Y), theirs.class_gradient(x, list(Y)), **close)


def test_art_adds_a_gradient_of_a_sum_to_one_of_a_mean_in_an_ensemble() -> None:
    theirs = EnsembleClassifier([art_member(0), art_member(1, "sum")])
    ours = joined(pair(loss={"path": CROSS_ENTROPY, "args": {"reduction": "sum"}}))
    x = X.astype(np.float32)
    first, second = (member.loss_gradient(x, Y) for member in pair().values())
    np.testing.assert_allclose(theirs.loss_gradient(x, np.eye(4)[Y]), 0.5 * first + 0.5 * 9 * second, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(ours.loss_gradient(x, Y), 0.5 * first + 0.5 * second, rtol=1e-5, atol=1e-7)


def test_art_has_no_loss_of_an_ensemble_and_ours_is_its_members() -> None:
    x = X.astype(np.float32)
    with pytest.raises(NotImplementedError):
        EnsembleClassifier([art_member(0), art_member(1)]).compute_loss(x, np.eye(4)[Y])
    first, second = (member.loss(x, Y) for member in pair().values())
    np.testing.assert_allclose(joined(pair()).loss(x, Y), 0.5 * first + 0.5 * second, rtol=1e-6)
