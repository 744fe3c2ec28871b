"""Models that raise, have no memory left or do not come back: nobody pays for what was not answered, and others are served."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from processes import ServerProcess

from gradwire.client.errors import GradwireError, ModelFailed, OutOfMemory, Unavailable

from .owners import HANGS, HAS_NO_MEMORY, RAISES
from .site import ONCE, ROW, Site, black_box, check_consistency

BUDGET = 100


@pytest.fixture(scope="module", params=[1, 100], ids=["exact", "leases"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Site:
    settings = {"lease_rows": request.param, "watchdog_s": 0.5, "watchdog_exits": False}
    models = [black_box("moody", "moody", hangs_s=1.5)]
    return Site(tmp_path_factory.mktemp("moody"), models, {("alice", "moody"): {"forward": BUDGET}}, settings=settings)


@pytest.fixture(scope="module")
def server(site: Site) -> Iterator[ServerProcess]:
    with site.serve() as server:
        yield server


@pytest.mark.parametrize(
    ("mood", "error"),
    [(RAISES, ModelFailed), (HAS_NO_MEMORY, OutOfMemory), (HANGS, Unavailable)],
    ids=["raises", "has no memory", "hangs"],
)
def test_a_call_that_the_model_fails_is_not_charged(
    mood: float, error: type[GradwireError], site: Site, server: ServerProcess
) -> None:
    with site.connect(server.address, "alice", retry=ONCE) as alice:
        remote = alice.estimator("moody")
        remote.predict(ROW)
        before = alice.usage("moody")[0]
        # More than once, and more rows than there are in all: whoever fails pays nothing, however often.
        for _ in range(3 if error is not Unavailable else 1):
            with pytest.raises(error):
                remote.predict(np.full((60, 6), mood, np.float32))
    check_consistency(site, server.address)
    with site.connect(server.address, "alice") as alice:
        after = alice.usage("moody")[0]
        assert (after.forward, after.left_forward) == (before.forward, before.left_forward)
        assert alice.estimator("moody").predict(ROW).shape == (1, 2)
