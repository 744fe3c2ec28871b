"""Names from clients are never paths: nothing outside the state folder is read, made or changed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from gradwire.client import Retry, Server, connect
from gradwire.client.errors import GradwireError, InvalidCall, ServerError, error_of
from gradwire.server import serving
from gradwire.v1 import estimator_pb2 as pb
from gradwire.v1 import model_pb2, model_pb2_grpc
from gradwire.wire.frames import messages, open_field

X = np.ones((1, 4), np.float32)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 2))


MODEL = {"backend": "torch", "factory": net, "input_shape": [4], "nb_classes": 2, "access": "trainer"}


class Place:
    """A server whose state folder lies beside files that are none of its business."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "state"
        for name in ("canary/secret", "canary/nested/deep", "m", "versions"):
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)

    def outside(self) -> dict[str, Any]:
        """All that lies beside the state folder: contents and times."""
        found = {}
        for folder, _, files in os.walk(self.root):
            if Path(folder).is_relative_to(self.state):
                continue
            for name in files:
                path = Path(folder) / name
                found[str(path)] = (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_mode)
            found[folder] = sorted(os.listdir(folder))
        return found

    def kept(self) -> set[str]:
        """Files in the state folder, relative to it, except the server's database."""
        found = {str(path.relative_to(self.state)) for path in self.state.rglob("*") if path.is_file()}
        return {name for name in found if not name.startswith("gradwire.db")}


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[Place, Server]]:
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder))
        place.state.mkdir()
        with serving({"m": MODEL}, state_dir=str(place.state)) as address, connect(address, retry=Retry(attempts=1)) as server:
            server.estimator("m").predict(X)
            yield place, server


PARTS = ["..", ".", "", "m", "m~1", "canary", "secret", "versions", "state", "a", "~", "\0", "\n", "%2e%2e", "C:", "NUL",
         "\uff0e\uff0e", "\u2215", "\u2024\u2024"]  # fmt: skip
SEPARATORS = ["/", "\\", "//", "\u2215", "\uff0f", "/./", "\0", "%2f"]
LONG = ["a" * 64, "a" * 65, "a" * 255, "a" * 5000, "../" * 300, "\xe4" * 64, "a\u0301", "\uff41", "\u202e/..", "\u0663", "a\n",
        "a ", " a", "a.", ".a", "-a"]  # fmt: skip


@st.composite
def paths(draw: st.DrawFn) -> str:
    """Parts, and what may pass for what stands between them."""
    parts = draw(st.lists(st.sampled_from(PARTS), min_size=1, max_size=6))
    return draw(st.sampled_from(["", "/", "\\", "./", "file://"])) + draw(st.sampled_from(SEPARATORS)).join(parts)


NAMES = st.one_of(
    paths(), st.sampled_from(LONG), st.text(max_size=80), st.just("{root}/canary/secret"), st.just("{root}/canary/new")
)


def uses(server: Server, name: str) -> Iterator[Any]:
    """Every place of the contract where a client gives a name."""
    stub = model_pb2_grpc.ModelServiceStub(server.connection.channel())
    yield lambda: stub.SaveVersion(model_pb2.SaveVersionRequest(model="m", version=name, overwrite=True))
    yield lambda: stub.RestoreVersion(model_pb2.RestoreVersionRequest(model="m", version=name))
    yield lambda: stub.SaveVersion(model_pb2.SaveVersionRequest(model=name, version="v"))
    yield lambda: stub.ListVersions(model_pb2.ListVersionsRequest(model=name))
    yield lambda: stub.RestoreVersion(model_pb2.RestoreVersionRequest(model=name, version="v"))
    yield lambda: stub.GetModel(model_pb2.GetModelRequest(model=name))
    yield lambda: stub.CloneModel(model_pb2.CloneModelRequest(model=name))
    yield lambda: stub.DeleteClone(model_pb2.DeleteCloneRequest(model=name))
    for call, layer, tensor in (
        (pb.CallHeader(model=name), "0", "x"),
        (pb.CallHeader(model="m", request_id=name, traceparent=name), "0", "x"),
        (pb.CallHeader(model="m"), name, "x"),
        (pb.CallHeader(model="m"), "0", name),
    ):
        opened = pb.GetActivationsOpen(call=call, layer=pb.Layer(name=layer))
        opening = open_field(opened.SerializeToString())
        yield lambda opening=opening, tensor=tensor: _streamed(server, opening, tensor)


def _streamed(server: Server, opening: bytes, tensor: str) -> None:
    stream = server.connection.open_stream("GetActivations")
    try:
        stream.send(iter(list(messages(opening, [(tensor, X)]))))
        stream.receive()
    finally:
        stream.close()


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(name=NAMES)
def test_no_name_leads_anywhere_but_to_what_it_names(place: tuple[Place, Server], name: str) -> None:
    where, server = place
    name = name.replace("{root}", str(where.root))
    before = where.outside()
    for use in uses(server, name):
        assert not isinstance(error_in(use), ServerError), name
    for clone in [card.name for card in server.models() if card.clone_of]:
        with suppress(GradwireError):
            server.estimator(clone).delete()
    assert where.outside() == before
    for path in where.kept():
        folder, model, version = Path(path).parts
        assert (folder, model) == ("versions", "m")
        assert version in (name, "v") or version in SAVED, (name, path)
    SAVED.update(Path(path).name for path in where.kept())


SAVED: set[str] = set()
"""Names of versions that examples before this one have left."""


def error_in(use: Any) -> GradwireError | None:
    try:
        use()
    except grpc.RpcError as e:
        return error_of(e, "")
    return None


@pytest.mark.parametrize("name", ["\udcff", "a\ud800"])
def test_a_name_that_is_no_text_is_refused_here(place: tuple[Place, Server], name: str) -> None:
    remote = place[1].estimator("m")
    for use in (remote.save, remote.restore, place[1].estimator, lambda name: remote.get_activations(X, name)):
        with pytest.raises((UnicodeEncodeError, InvalidCall)):
            use(name)
