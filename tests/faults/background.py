"""A call in a thread, while the test does something to it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Background:
    """Runs a call in a thread.

    Attributes:
        result: What it returned.
        error: What it raised.
    """

    def __init__(self, call: Callable[[], Any]) -> None:
        self.result: Any = None
        self.error: Exception | None = None
        self._call = call
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._call()
        except Exception as e:
            self.error = e

    def end(self, timeout_s: float = 60) -> Background:
        """Waits until it has ended."""
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), "the call does not end"
        return self
