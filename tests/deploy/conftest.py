"""Tests that build images run when they are asked for: `make containers`."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips them, and says so, unless the command line asks for them."""
    if "container" in config.getoption("markexpr"):
        return
    for item in items:
        if item.get_closest_marker("container"):
            item.add_marker(pytest.mark.skip(reason="builds images, which takes minutes: make containers"))
