"""The server's disk is full: callers are told so, nothing is left half-written, and all goes on when there is room."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from processes import ServerProcess

from gradwire.client import Server
from gradwire.client.errors import OutOfDisk, Unavailable
from gradwire.v1.errors_pb2 import ERROR_REASON_STORE_UNAVAILABLE

from .site import ONCE, ROW, Site, black_box, check_consistency, torch_net

CAPACITY = 300
"""Calls that the server keeps when it cannot write them."""
SIZE_NBYTES = 4 << 20
BUDGET = 100


class Disk:
    """A small file system of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> None:
        with self._filler.open("wb", buffering=0) as file:
            for nbytes in (1 << 16, 1 << 12, 1):
                try:
                    while True:
                        file.write(b"x" * nbytes)
                except OSError:
                    continue

    def free(self) -> None:
        self._filler.unlink()


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    folder = tmp_path_factory.mktemp("disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE_NBYTES}", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted: {mounted.stderr.strip()} (user id {os.geteuid()})")
    yield Disk(folder)
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="module")
def site(disk: Disk, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Everything that the server writes is on the small disk."""
    folder = tmp_path_factory.mktemp("site")
    models = [torch_net("net", folder), black_box("sums", "with_small_ledger", capacity_calls=CAPACITY)]
    settings = {"spool_dir": str(disk.folder), "limits": {"fit_memory_bytes": 0}, "lease_rows": 10}
    return Site(folder, models, {("alice", "sums"): {"forward": BUDGET}}, settings=settings, state_dir=disk.folder)


@pytest.fixture(scope="module")
def server(site: Site) -> Iterator[ServerProcess]:
    with site.serve() as server:
        yield server


@pytest.fixture
def ops(site: Site, server: ServerProcess) -> Iterator[Server]:
    with site.connect(server.address, retry=ONCE) as ops:
        yield ops


def test_a_version_that_there_is_no_room_for_is_refused_and_leaves_nothing(
    disk: Disk, site: Site, server: ServerProcess, ops: Server
) -> None:
    remote = ops.estimator("net")
    remote.save("before")
    outputs = remote.predict(ROW)
    disk.fill()
    for overwrite, name in ((False, "after"), (True, "before")):
        with pytest.raises(OutOfDisk, match="the server's disk is full"):
            remote.save(name, overwrite=overwrite)
    assert [version.name for version in remote.versions()] == ["before"]
    assert os.listdir(disk.folder / "versions" / "net") == ["before"]
    # A model that was saved can be brought back all the same.
    remote.restore("before")
    np.testing.assert_array_equal(remote.predict(ROW), outputs)
    disk.free()
    remote.save("after")
    check_consistency(site, server.address)


def test_training_data_that_there_is_no_room_for_is_refused_before_it_is_taken(
    disk: Disk, site: Site, server: ServerProcess, ops: Server
) -> None:
    remote = ops.estimator("net")
    outputs, version = remote.predict(ROW), remote.refresh().version
    rows = SIZE_NBYTES // 24
    with pytest.raises(OutOfDisk):
        remote.fit(np.zeros((rows, 6), np.float32), np.zeros(rows, np.int64), nb_epochs=1)
    np.testing.assert_array_equal(remote.predict(ROW), outputs)
    assert remote.refresh().version == version
    remote.fit(np.zeros((100, 6), np.float32), np.zeros(100, np.int64), nb_epochs=1)
    assert remote.refresh().version != version
    remote.reset()
    check_consistency(site, server.address)


def test_calls_that_cannot_be_written_down_are_kept_until_there_is_room(
    disk: Disk, site: Site, server: ServerProcess, ops: Server
) -> None:
    check_consistency(site, server.address)
    with site.connect(server.address, "alice", retry=ONCE) as alice:
        remote = alice.estimator("sums")
        remote.predict(ROW)
        ops.usage("sums")
        known = len(site.calls())
        disk.fill()
        # What has been taken is served from memory; more cannot be taken.
        answered = 0
        with pytest.raises(Unavailable) as refused:
            for _ in range(50):
                remote.predict(ROW)
                answered += 1
        assert refused.value.reason == ERROR_REASON_STORE_UNAVAILABLE
        assert refused.value.retry_after_s
        assert answered < 10
        # Rows that are not counted need no store.
        unlimited = ops.estimator("sums")
        for _ in range(20):
            unlimited.predict(ROW)
        time.sleep(0.7)
        assert len(site.calls()) == known
        disk.free()
        remote.predict(ROW)
        check_consistency(site, server.address)
        calls = [call for call in site.calls()[known:] if call.model == "sums"]
    # The refused one too; of the last ones the check has made some.
    assert [call.outcome for call in calls if call.principal == "alice"] == ["OK"] * answered + ["STORE_UNAVAILABLE", "OK"]
    assert sum(call.principal == "ops" for call in calls) >= 20


def test_no_call_is_taken_that_could_not_be_written_down_any_more(
    disk: Disk, site: Site, server: ServerProcess, ops: Server
) -> None:
    remote = ops.estimator("sums")
    ops.usage("sums")
    known = len(site.calls())
    disk.fill()
    answered = 0
    with pytest.raises(Unavailable) as refused:
        for _ in range(2 * CAPACITY):
            remote.predict(ROW)
            answered += 1
    assert refused.value.reason == ERROR_REASON_STORE_UNAVAILABLE
    assert refused.value.retry_after_s
    # Some room is left for calls that are under way; one batch more is on its way to the disk.
    assert 0.9 * CAPACITY <= answered <= 2 * CAPACITY
    disk.free()
    end_s = time.monotonic() + 20
    while len(site.calls()) < known + answered:
        assert time.monotonic() < end_s, "the ledger does not go on"
        time.sleep(0.1)
    remote.predict(ROW)
    check_consistency(site, server.address)
