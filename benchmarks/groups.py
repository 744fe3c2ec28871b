"""Groups of figures, in the order in which they are measured and shown."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.figures.figure import Figure
from benchmarks.setting import Setting


@dataclass(frozen=True)
class Group:
    """Figures that are measured together.

    Attributes:
        title: Its title in reports.
        module: The module that measures them. It is imported at its turn, because processes that a group spawns import
            everything imported here.
    """

    title: str
    module: str

    def measure(self, setting: Setting) -> list[Figure]:
        """Measures the group's figures."""
        function: Callable[[Setting], list[Figure]] = importlib.import_module(f"benchmarks.{self.module}").measure
        return function(setting)


GROUPS = {
    "operations": Group("Single calls, CNN", "operations.cnn"),
    "resnet": Group("Single calls, ResNet18 on 3 x 32 x 32", "operations.resnet"),
    "clients": Group("Several clients, CNN", "crowd.throughput"),
    "bulk": Group("Large tensors", "bulk.round_trip"),
    "attacks": Group("Attacks end to end", "attacks.end_to_end"),
    "memory": Group("The server's memory", "bulk.memory"),
    "crowd": Group("A thousand clients", "crowd.many"),
    "engines": Group("Engines: replicas on Ray", "engines.ray"),
    "account": Group("Microseconds of a call", "account.calls"),
}
