"""``gradwire check``: finds what is wrong, and nothing where all is right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from commands import gradwire
from torch import nn

from gradwire.client import RemoteEstimator, connect
from gradwire.client.check.check import Finding, check_model, rows_for
from gradwire.client.check.differences import PRECISIONS, agreement, differences, directions
from gradwire.client.errors import InvalidCall, ShapeError
from gradwire.server import serving
from models import cnn, mlp

CROSS_ENTROPY = "torch.nn.CrossEntropyLoss"


class Doubled(torch.autograd.Function):
    """The identity, with a backward that is wrong."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return 2 * gradient


class WrongBackward(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(Doubled.apply(x))


class PartlyDetached(nn.Module):
    """No gradient comes back to one of the inputs."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(torch.cat([x[:, :1].detach(), x[:, 1:]], 1))


class SeeEachOther(nn.Module):
    """Outputs depend on the other rows of the batch."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x - x.mean(0, keepdim=True))


def of_mlp(**more: Any) -> dict[str, Any]:
    return {"backend": "torch", "factory": mlp, "loss": CROSS_ENTROPY, "input_shape": [6], "nb_classes": 4, **more}


def of_cnn(**more: Any) -> dict[str, Any]:
    images = {"input_shape": [1, 8, 8], "nb_classes": 5, "clip_values": [0.0, 1.0]}
    return {"backend": "torch", "factory": cnn, "loss": CROSS_ENTROPY, **images, **more}


ADAM = {"path": "torch.optim.Adam", "args": {"lr": 1e-3}}
RIGHT = {
    "float64": of_mlp(access="trainer", optimizer=ADAM),
    "float32": of_cnn(preprocessing={"mean": 0.5, "std": 0.25}),
    "weighted": of_mlp(loss={"path": CROSS_ENTROPY, "args": {"label_smoothing": 0.1}}),
    "summed": of_mlp(loss={"path": CROSS_ENTROPY, "args": {"reduction": "sum"}}),
    "no-loss": of_mlp(loss=None),
}
OTHERS = {
    "labels": {"same_as": "float32", "access": "labels"},
    "wrong64": of_mlp(factory=lambda: WrongBackward(mlp())),
    "wrong32": of_cnn(factory=lambda: WrongBackward(cnn())),
    "detached": of_mlp(factory=lambda: PartlyDetached(mlp())),
    "see-each-other": of_mlp(factory=lambda: SeeEachOther(mlp())),
    "free": of_mlp(input_shape=[-1]),
}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving({**RIGHT, **OTHERS}) as address:
        yield address


@pytest.fixture(scope="module")
def models(address: str) -> Iterator[dict[str, RemoteEstimator]]:
    with connect(address) as server:
        yield {name: server.estimator(name) for name in (*RIGHT, *OTHERS)}


def verdicts(findings: Any) -> dict[str, str]:
    return {finding.operation: finding.verdict for finding in findings}


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("seed", range(3))
def test_a_right_model_passes_whatever_is_random(models, name, seed):
    findings = list(check_model(models[name], seed=seed))
    tried = [finding for finding in findings if finding.verdict != "not granted"]
    assert {finding.operation for finding in tried} == models[name].card.operations
    assert [finding for finding in tried if finding.verdict != "ok"] == []


@pytest.mark.parametrize("name", ["wrong64", "wrong32"])
@pytest.mark.parametrize("seed", range(3))
def test_a_wrong_backward_is_found_in_every_gradient_and_nowhere_else(models, name, seed):
    found = verdicts(check_model(models[name], seed=seed))
    assert {operation for operation, verdict in found.items() if verdict == "wrong"} == {"loss_gradient", "class_gradient", "vjp"}


def test_a_gradient_that_is_a_multiple_of_the_right_one_is_said_to_be(models):
    found = {finding.operation: finding.text for finding in check_model(models["wrong64"])}
    assert "it is 2 times the right one" in found["loss_gradient"]
    assert "it is 2 times the right one" in found["vjp"]


def test_one_missing_input_is_found(models):
    assert verdicts(check_model(models["detached"]))["loss_gradient"] == "wrong"


def test_rows_that_see_each_other_are_found(models):
    [finding] = [finding for finding in check_model(models["see-each-other"]) if finding.operation == "predict"]
    assert finding.verdict == "wrong"
    assert "rows" in finding.text


def test_what_is_not_on_the_card_is_asked_for_and_must_be_refused(models):
    findings = list(check_model(models["labels"]))
    assert verdicts(findings)["predict"] == "ok"
    assert {finding.verdict for finding in findings[1:]} == {"not granted"}
    assert "needs 'gradients'" in findings[1].text


def test_a_check_leaves_no_traces(models):
    version = models["float64"].refresh().version
    list(check_model(models["float64"]))
    assert models["float64"].refresh().version == version
    assert models["float64"].versions() == []
    assert not [card for card in models["float64"].server.models() if card.clone_of]


def test_it_costs_a_few_hundred_rows(models):
    before = models["float32"].usage()
    list(check_model(models["float32"]))
    after = models["float32"].usage()
    assert after.forward - before.forward < 500
    assert after.backward - before.backward < 100


def test_rows_of_the_callers_own_are_used(models):
    x = np.random.default_rng(1).standard_normal((8, 6))
    assert "wrong" not in verdicts(check_model(models["free"], x, np.arange(8) % 4)).values()


def test_free_sizes_need_rows_of_the_callers_own(models):
    with pytest.raises(InvalidCall, match="pass rows of your own"):
        list(check_model(models["free"]))


def test_rows_of_another_shape_are_refused(models):
    with pytest.raises(ShapeError, match=r"\(n, 6\)"):
        list(check_model(models["float64"], np.ones((3, 7))))


def test_random_rows_stay_within_the_clip_values(models):
    rows = rows_for(models["float32"].card, np.random.default_rng(0))
    assert rows.dtype == np.float32
    assert rows.min() >= 0
    assert rows.max() <= 1


def test_one_wrong_row_among_right_ones_is_found():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 5))
    gradient = 2 * x
    along = directions(gradient, rng)
    found = differences(lambda rows: (rows**2).sum(1, keepdims=True), x, along, 1.0, PRECISIONS[8], 1e-16)
    assert agreement(found, gradient[:, None]).error < 1e-6
    gradient[2] *= 1.01
    assert agreement(found, gradient[:, None]).wrong


def test_a_kink_beside_a_row_is_not_a_wrong_gradient():
    x = np.full((4, 3), 1e-7)
    gradient = np.ones((4, 3))
    along = directions(gradient, np.random.default_rng(0))
    found = differences(lambda rows: np.maximum(rows.sum(1, keepdims=True), 0), x, along, 1.0, PRECISIONS[8], 1e-16)
    assert not agreement(found, gradient[:, None]).wrong
    assert agreement(found, 2 * gradient[:, None]).wrong


def test_the_command_says_what_is_wrong_and_ends_with_1(address):
    ended = gradwire("check", address, "wrong64")
    assert ended.returncode == 1, ended.stderr
    assert "wrong: loss_gradient, class_gradient, vjp" in ended.stdout
    assert "2 times the right one" in ended.stdout


def test_the_command_shows_the_card_and_ends_with_0_where_all_is_right(address, tmp_path):
    data = tmp_path / "rows.npz"
    np.savez(data, x=np.random.default_rng(0).random((6, 1, 8, 8)), y=np.arange(6) % 5)
    ended = gradwire("check", address, "float32", "--data", str(data))
    assert ended.returncode == 0, ended.stderr
    assert "clip values 0 to 1" in ended.stdout
    assert "6 of 6 operations are right" in ended.stdout


@pytest.mark.parametrize(
    ("content", "text"),
    [(None, "No such file"), (b"text", "not a .npz file"), ({"rows": np.ones(3)}, "no array x"), ({"x": np.ones((2, 3))}, "shape")],
)
def test_data_that_cannot_be_used_is_one_line_and_2(address, tmp_path, content, text):
    data = tmp_path / "rows.npz"
    if isinstance(content, dict):
        np.savez(data, **content)
    elif content is not None:
        data.write_bytes(content)
    ended = gradwire("check", address, "float32", "--data", str(data))
    assert ended.returncode == 2
    assert text in ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_findings_are_plain_values():
    assert Finding("predict", "ok", "text") == Finding("predict", "ok", "text")
