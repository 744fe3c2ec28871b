"""Every preset, every operation, every kind of caller, over both transports; the table in docs/security.md is what came out.

The client's own checks are passed by: its card says that everything is granted, so that each call reaches the server.
``make readme`` writes the table.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from server.trust.sites import ADMIN, LONG_AGO, MLP, Site, site

from gradwire.client import RemoteEstimator, Server
from gradwire.client.errors import AccessError, NotGranted, Unauthenticated, UnknownModel
from gradwire.client.server import connect
from gradwire.wire.names import ANSWER_NAMES, OPERATION_NAMES

SECURITY = Path(__file__).parents[3] / "docs" / "security.md"
BEGIN, END = "<!-- who may do what: written by `make readme` -->", "<!-- end of the tables -->"

PAIR: dict[str, Any] = {"name": "pair", "backend": "ensemble", "members": ["mlp", "other"], "access": "gradients"}
MODELS = [MLP, {**MLP, "name": "other"}, PAIR, {"name": "theirs", "same_as": "other", "access": "scores"}]

PRESETS: dict[str, dict[str, Any]] = {
    "labels": {"access": "labels"},
    "scores, rounded": {"access": "scores", "decimals": 2, "top_k": 1},
    "scores": {"access": "scores"},
    "gradients": {"access": "gradients"},
    "gradients, activations": {"access": "gradients", "activations": True},
    "trainer": {"access": "trainer"},
    "trainer, activations": {"access": "trainer", "activations": True},
}

X, Y = np.linspace(-1, 1, 18, dtype=np.float32).reshape(3, 6), np.array([0, 1, 2])
Call: TypeAlias = Callable[[RemoteEstimator, RemoteEstimator], Any]
CALLS: dict[str, Call] = {
    # The model, and the ensemble that it is a member of.
    "`predict`": lambda mlp, pair: mlp.predict(X),
    "`predict(raw=True)`": lambda mlp, pair: pair.predict(X, raw=True),
    "`compute_loss`": lambda mlp, pair: mlp.compute_loss(X, Y),
    "`compute_loss_from_predictions`": lambda mlp, pair: mlp.compute_loss_from_predictions(np.zeros((3, 4)), Y),
    "`loss_gradient`": lambda mlp, pair: mlp.loss_gradient(X, Y),
    "`class_gradient`": lambda mlp, pair: mlp.class_gradient(X),
    "`vjp`": lambda mlp, pair: mlp.vjp(X, np.ones((3, 4))),
    "`vjp` of a layer": lambda mlp, pair: mlp.vjp(X, np.ones((3, 8)), layer=0),
    "`get_activations`": lambda mlp, pair: mlp.get_activations(X, 0),
    "`fit`": lambda mlp, pair: mlp.fit(X, Y, nb_epochs=1),
    "`fit_generator`": lambda mlp, pair: mlp.fit_generator([(X, Y)], nb_epochs=1),
    "`save`": lambda mlp, pair: mlp.save("matrix", overwrite=True),
    "`versions`": lambda mlp, pair: mlp.versions(),
    "`restore`": lambda mlp, pair: mlp.restore("matrix"),
    "`reset`": lambda mlp, pair: mlp.reset(),
    "`clone_for_refitting`": lambda mlp, pair: mlp.clone_for_refitting().delete(),
}

LABELS = {"`predict`"}
GRADIENTS = {
    *LABELS,
    "`predict(raw=True)`",
    "`compute_loss`",
    "`compute_loss_from_predictions`",
    "`loss_gradient`",
    "`class_gradient`",
    "`vjp`",
}
INSIDE = {"`vjp` of a layer", "`get_activations`"}
EXPECTED = {
    "labels": LABELS,
    "scores, rounded": LABELS,
    "scores": LABELS | {"`predict(raw=True)`"},
    "gradients": GRADIENTS,
    "gradients, activations": GRADIENTS | INSIDE,
    "trainer": set(CALLS) - INSIDE,
    "trainer, activations": set(CALLS),
}

OUTSIDERS: dict[str, type[Exception]] = {
    "no token": Unauthenticated,
    "a wrong token": Unauthenticated,
    "an expired token": Unauthenticated,
    "a token of another team, without a grant for the model": UnknownModel,
    "a grant that has expired": UnknownModel,
    "a grant that was revoked": UnknownModel,
}


def name(preset: str, kind: str = "granted") -> str:
    """The principal that a preset was given to, and what has become of it."""
    return "-".join([*preset.replace(",", "").split(), *kind.split()[-1:]])


def grants() -> list[dict[str, Any]]:
    given = []
    for preset, grant in PRESETS.items():
        below = {"access": "gradients", "activations": grant.get("activations", False)} if grant["access"] == "trainer" else grant
        for model, what in (("mlp", grant), ("pair", below)):
            for kind in ("granted", "expired", "revoked", "token"):
                ended = {"expires": LONG_AGO} if kind == "expired" else {}
                given.append({"principal": name(preset, kind), "model": model, **what, **ended})
    return [*given, {"principal": "team", "model": "theirs", "access": "scores"}]


def outcome(call: Call, server: Server, card: Any, pair: Any) -> str:
    """The exception that a call ends with; empty if it is answered."""
    try:
        call(RemoteEstimator(server, card), RemoteEstimator(server, pair))
    except (AccessError, UnknownModel) as e:
        return type(e).__name__
    return ""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, transport: str) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("matrix")
    with site(folder, MODELS, grants(), expired=[name(preset, "token") for preset in PRESETS]) as started:
        with started.connect(ADMIN) as admin:
            for preset in PRESETS:
                for model in ("mlp", "pair"):
                    admin.grants.revoke(name(preset, "revoked"), model)
        yield started


@pytest.fixture(scope="module")
def cards(served: Site) -> tuple[Any, Any]:
    """Card that all clients use."""
    with served.connect(name("trainer, activations")) as server:
        everything = {"operations": frozenset(OPERATION_NAMES.values()), "answers": frozenset(ANSWER_NAMES.values())}
        return replace(server.card("mlp"), **everything), replace(server.card("pair"), **everything)


@pytest.fixture(scope="module")
def granted(served: Site, cards: tuple[Any, Any]) -> dict[str, dict[str, str]]:
    """Outcomes by preset and call."""
    found: dict[str, dict[str, str]] = {}
    for preset in PRESETS:
        with served.connect(name(preset)) as server:
            found[preset] = {called: outcome(call, server, *cards) for called, call in CALLS.items()}
    return found


@pytest.fixture(scope="module")
def refused(served: Site, cards: tuple[Any, Any]) -> dict[str, set[str]]:
    """All outcomes of those who have no grant, by what they have in its place."""
    found: dict[str, set[str]] = {kind: set() for kind in OUTSIDERS}
    for preset in PRESETS:
        tokens = {
            "no token": None,
            "a wrong token": f"{served.tokens[name(preset)]}x",
            "an expired token": served.tokens[name(preset, "token")],
            "a token of another team, without a grant for the model": served.tokens["team"],
            "a grant that has expired": served.tokens[name(preset, "expired")],
            "a grant that was revoked": served.tokens[name(preset, "revoked")],
        }
        for kind, token in tokens.items():
            with connect(served.address, token=token) as server:
                found[kind] |= {outcome(call, server, *cards) for call in CALLS.values()}
    return found


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_gives_its_operations_and_no_others(granted: dict[str, dict[str, str]], preset: str) -> None:
    assert granted[preset] == {call: "" if call in EXPECTED[preset] else NotGranted.__name__ for call in CALLS}


@pytest.mark.parametrize("kind", OUTSIDERS)
def test_who_has_no_grant_is_refused_everything_in_one_way(refused: dict[str, set[str]], kind: str) -> None:
    assert refused[kind] == {OUTSIDERS[kind].__name__}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_card_says_what_the_server_does(served: Site, granted: dict[str, dict[str, str]], preset: str) -> None:
    methods = {"`save`": "save", "`clone_for_refitting`": "clone_for_refitting", "`compute_loss`": "loss"}
    methods |= {call: call.strip("`") for call in CALLS if call.strip("`") in OPERATION_NAMES.values()}
    with served.connect(name(preset)) as server:
        assert server.card("mlp").operations == {
            methods[call] for call, ended in granted[preset].items() if call in methods and not ended
        }
        assert ("members" in server.card("pair").answers) == (not granted[preset]["`predict(raw=True)`"])


def test_who_has_no_grant_finds_no_model(served: Site) -> None:
    with served.connect("team") as team, served.connect(name("trainer", "revoked")) as revoked:
        assert [card.name for card in team.models()] == ["theirs"]
        assert revoked.models() == []


def test_the_tables_in_the_documents_are_what_the_server_answers(
    granted: dict[str, dict[str, str]], refused: dict[str, set[str]]
) -> None:
    text = SECURITY.read_text()
    before, rest = text.split(BEGIN)
    found, after = rest.split(END)
    expected = f"\n{tables(granted, refused)}\n"
    if os.environ.get("GRADWIRE_WRITE_README"):
        SECURITY.write_text(f"{before}{BEGIN}{expected}{END}{after}")
        return
    assert found == expected, f"run `make readme`; the tables should be:{expected}"


def tables(granted: dict[str, dict[str, str]], refused: dict[str, set[str]]) -> str:
    """Operations down, presets across; and what those without a grant are told, whatever they ask."""
    lines = [f"| | {' | '.join(granted)} |", f"|---|{'---|' * len(granted)}"]
    for call in CALLS:
        lines.append(f"| {call} | {' | '.join('' if outcomes[call] else 'yes' for outcomes in granted.values())} |")
    lines += ["", "| a caller with | is told, whatever it asks |", "|---|---|"]
    lines += [f"| {kind} | {', '.join(f'`{told}`' for told in sorted(outcomes))} |" for kind, outcomes in refused.items()]
    return "\n".join(lines)
