"""Programs of the system that tests run, and the Debian packages that have them.

A test whose program is missing is skipped, and the end of the run names the packages to install. With
GRADWIRE_REQUIRE_PROGRAMS=1, as in .ci/run, it fails. Run as a program, this prints the packages that are missing here.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

PACKAGES = {
    "nginx": "nginx-light",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "initdb": "postgresql",
    "g++": "g++",
    "ip": "iproute2",
    "mount": "mount",
}
_MISSING = re.compile(r"(\S+) is not installed: apt-get install (\S+)")


def find(name: str) -> str | None:
    """The path of a program, in the folders of root and of PostgreSQL too."""
    # Debian's nginx is on root's PATH only, and PostgreSQL's programs are on none.
    postgres = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", *postgres]))


def need(name: str) -> str:
    """The path of a program; without it the test is skipped, or fails where programs are required."""
    found = find(name)
    if found is None:
        lack(f"{name} is not installed: apt-get install {PACKAGES[name]}")
    return found or ""


def lack(reason: str) -> None:
    """Skips a test that lacks a program, or lets it fail where programs are required and Debian has it."""
    import pytest

    if os.environ.get("GRADWIRE_REQUIRE_PROGRAMS") == "1" and _MISSING.match(reason):
        pytest.fail(f"{reason} (GRADWIRE_REQUIRE_PROGRAMS is 1)", pytrace=False)
    pytest.skip(reason)


def advice(reasons: Iterable[str]) -> list[str]:
    """Lines that say how many tests a package would add, of the reasons of skipped tests."""
    tests = Counter(found[2] for reason in reasons if (found := _MISSING.search(reason)))
    return [f"apt-get install {package} adds {n} test{'s' if n > 1 else ''}" for package, n in sorted(tests.items())]


def missing() -> list[str]:
    """The packages that are missing here."""
    return sorted({package for name, package in PACKAGES.items() if find(name) is None})


if __name__ == "__main__":
    print(*missing())
