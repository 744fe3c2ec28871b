"""Attacks that run out of budget: what they had found is in the exception."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from art.attacks.evasion import (
    BasicIterativeMethod,
    DeepFool,
    FastGradientMethod,
    HopSkipJump,
    ProjectedGradientDescent,
    SquareAttack,
)
from server.trust.sites import ADMIN, Site, site
from sklearn.datasets import load_digits
from torch import nn

from gradwire.client.art import art_estimator
from gradwire.client.attack import run_attack
from gradwire.client.errors import BudgetSpent, InvalidCall, ShapeError
from gradwire.client.grants import Budget, Grant

FACTORY = """
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 10))
"""


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    return (x / 16).astype(np.float32).reshape(-1, 1, 8, 8), y.astype(np.int64)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, digits: Any) -> Iterator[Site]:
    from safetensors.torch import save_model

    folder = tmp_path_factory.mktemp("attack")
    (folder / "attacked_model.py").write_text(FACTORY)
    names: dict[str, Any] = {}
    exec(FACTORY, names)
    torch.manual_seed(0)
    module = names["make"]()
    x, y = (torch.from_numpy(array[:1400]) for array in digits)
    optimizer = torch.optim.Adam(module.parameters(), lr=5e-3)
    for _ in range(10):
        for rows in torch.randperm(1400).split(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
            optimizer.step()
    save_model(module, str(folder / "digits.safetensors"))
    model = {"name": "digits", "backend": "torch", "factory": "attacked_model:make", "weights": "digits.safetensors",
             "loss": "torch.nn.CrossEntropyLoss", "input_shape": [1, 8, 8], "nb_classes": 10, "clip_values": [0, 1]}  # fmt: skip
    with site(folder, [model], [], ["judge", "attacker"]) as started, started.connect(ADMIN) as admin:
        admin.grants.put(Grant("judge", "digits", "gradients"))
        yield started


@pytest.fixture
def rows(served: Site, digits: Any) -> tuple[np.ndarray, np.ndarray]:
    """Eight that the model gets right."""
    # ART draws from numpy's own generator.
    np.random.seed(0)
    x, y = (array[1400:1440] for array in digits)
    with served.connect("judge") as judge:
        right = np.flatnonzero(judge.estimator("digits").predict(x).argmax(1) == y)[:8]
    return x[right], y[right]


@pytest.fixture
def attacked(served: Site, request: Any) -> Iterator[Callable[..., Any]]:
    """``attacked(access, forward, backward)``: an ART estimator with so many rows left."""
    opened = []

    def make(access: Any, forward: int, backward: int | None = None) -> Any:
        with served.connect(ADMIN) as admin:
            used = {one.principal: one for one in admin.usage("digits", everybody=True)}.get("attacker")
            before = (0, 0) if used is None else (used.forward, used.backward)
            budget = Budget(before[0] + forward, None if backward is None else before[1] + backward)
            admin.grants.put(Grant("attacker", "digits", access, budget=budget))
        server = served.connect("attacker")
        opened.append(server)
        return art_estimator(server.estimator("digits"))

    yield make
    for server in opened:
        server.close()


def classes(served: Site, x: np.ndarray) -> np.ndarray:
    with served.connect("judge") as judge:
        return judge.estimator("digits").predict(x).argmax(1)


def test_hop_skip_jump_keeps_its_nearest_queries(served: Site, attacked: Any, rows: Any) -> None:
    x, y = rows
    attack = HopSkipJump(attacked("labels", 400), max_iter=3, max_eval=100, init_eval=10, verbose=False)
    with pytest.raises(BudgetSpent, match="does not refill") as caught:
        run_attack(attack, x, y, batch_size=1)
    spent = caught.value
    assert spent.best.shape == x.shape
    done = int(spent.finished.sum())
    assert 1 <= done < len(x)
    assert spent.finished[:done].all()
    said = classes(served, spent.best)
    assert (said[spent.finished] != y[spent.finished]).all()
    # Of the row that was broken off the model was seen to take a query for something else; it does so again.
    assert spent.fooled.sum() == 1
    assert spent.fooled[done]
    assert said[done] != y[done]
    np.testing.assert_array_equal(spent.best[done + 1 :], x[done + 1 :])


def test_square_keeps_the_rows_that_it_has_fooled(served: Site, attacked: Any, rows: Any) -> None:
    x, y = rows
    attack = SquareAttack(attacked("scores", 40), eps=0.3, max_iter=200, batch_size=8, verbose=False)
    with pytest.raises(BudgetSpent) as caught:
        run_attack(attack, x, y, batch_size=8)
    spent = caught.value
    assert not spent.finished.any()
    assert spent.fooled.any()
    said = classes(served, spent.best)
    assert (said[spent.fooled] != y[spent.fooled]).all()
    assert np.abs(spent.best - x).max() <= 0.3 + 1e-6


def test_pgd_keeps_its_batches_and_its_last_iterates(served: Site, attacked: Any, rows: Any) -> None:
    x, y = rows
    attack = ProjectedGradientDescent(attacked("gradients", 1000, 60), eps=0.3, eps_step=0.05, max_iter=10, verbose=False)
    with pytest.raises(BudgetSpent, match="0 backward rows left|backward rows left of") as caught:
        run_attack(attack, x, y, batch_size=4)
    spent = caught.value
    np.testing.assert_array_equal(spent.finished, np.arange(8) < 4)
    # Gradients were asked for, and no predictions: nothing was seen.
    assert not spent.fooled.any()
    assert (np.abs(spent.best - x).reshape(8, -1).max(1) > 0.1).all()
    with served.connect("judge") as judge:
        remote = judge.estimator("digits")
        assert (remote.compute_loss(spent.best, y) > remote.compute_loss(x, y)).all()


def test_deep_fool_keeps_what_it_saw(served: Site, attacked: Any, rows: Any) -> None:
    x, y = rows
    attack = DeepFool(attacked("gradients", 40, 200), max_iter=50, epsilon=0.02, batch_size=4, verbose=False)
    with pytest.raises(BudgetSpent) as caught:
        run_attack(attack, x, None, batch_size=4)
    said = classes(served, caught.value.best)
    assert (said[caught.value.fooled] != y[caught.value.fooled]).all()


def test_a_targeted_attack_keeps_what_reached_the_target(served: Site, attacked: Any, rows: Any) -> None:
    x, y = rows
    targets = (y + 1) % 10
    estimator = attacked("gradients", 300, None)
    attack = HopSkipJump(estimator, targeted=True, max_iter=2, max_eval=60, init_eval=5, verbose=False)
    start = np.stack([next(row for row, label in zip(x, y, strict=True) if label != target) for target in targets])
    with pytest.raises(BudgetSpent) as caught:
        run_attack(attack, x, np.eye(10, dtype=np.float32)[targets], batch_size=1, x_adv_init=start[:1])
    seen = caught.value.fooled
    assert (classes(served, caught.value.best)[seen] == targets[seen]).all()


def test_with_enough_budget_it_is_the_attack(served: Site, attacked: Any, rows: Any) -> None:
    x, y = rows
    estimator = attacked("gradients", 10_000, 10_000)
    for attack in (FastGradientMethod(estimator, eps=0.2), BasicIterativeMethod(estimator, eps=0.2, max_iter=5, verbose=False)):
        np.testing.assert_allclose(run_attack(attack, x, y, batch_size=3), attack.generate(x, y), atol=1e-6)
        np.testing.assert_allclose(run_attack(attack, x, batch_size=8), attack.generate(x), atol=1e-6)


def test_other_calls_have_nothing_to_hand_out(attacked: Any, rows: Any) -> None:
    x, y = rows
    estimator = attacked("labels", 5)
    with pytest.raises(BudgetSpent, match="has 5 forward rows left") as caught:
        estimator.predict(x)
    assert (caught.value.best, caught.value.finished, caught.value.fooled) == (None, None, None)
    with pytest.raises(BudgetSpent) as caught:
        run_attack(HopSkipJump(estimator, verbose=False), x, y)
    np.testing.assert_array_equal(caught.value.best, x)
    assert not caught.value.finished.any()


def test_what_makes_no_sense_is_refused(attacked: Any, rows: Any) -> None:
    x, y = rows
    attack = HopSkipJump(attacked("labels", 10), verbose=False)
    with pytest.raises(InvalidCall, match="batch_size is 0"):
        run_attack(attack, x, y, batch_size=0)
    with pytest.raises(ShapeError, match="7 labels for 8 rows"):
        run_attack(attack, x, y[:7])
