"""Every parser of other people's bytes, for some seconds of coverage-guided fuzzing from the inputs that are kept.

It fails on any error that is not the contract's, on an input that takes twenty seconds, and on memory that grows. An input that
breaks something is shown in base64, to be kept in the corpus with what repairs it: see `fuzz.run` for longer hunts.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import environment
from fuzz.run import CORPUS, TARGETS

SECONDS = 6
GROWTH_MB = 96

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("atheris") is None, reason="atheris is not installed: there is none for this Python"
    ),
    pytest.mark.timeout(240),
]


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_breaks(target: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fuzz.run", target, "--seconds", str(SECONDS), "--corpus", str(tmp_path / "new")]
    # libFuzzer goes by the peak of its memory, which Linux hands on to what a process starts: the tests' own may be gigabytes. A
    # shell between them has a small one to hand on.
    small = ["sh", "-c", '"$@"; exit $?', "sh", *command, "--artifacts", str(tmp_path)]
    done = subprocess.run(small, capture_output=True, text=True, timeout=200, env=environment(), check=False)
    assert not done.returncode, done.stderr[-4000:]
    assert "Done " in done.stderr, done.stderr[-4000:]
    rss = [int(mb) for mb in re.findall(r"rss: (\d+)Mb", done.stderr)]
    assert rss[-1] - rss[0] < GROWTH_MB, done.stderr[-4000:]


def test_what_is_kept_is_small() -> None:
    kept = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert {path.parent.name for path in kept} == set(TARGETS)
    assert sum(path.stat().st_size for path in kept) < 300_000
