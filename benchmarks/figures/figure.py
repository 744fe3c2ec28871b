"""One figure: gradwire's value, the value beside it, and the goal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Goal:
    """A goal for a figure.

    Attributes:
        bound: Bound of the ratio, or of gradwire's value itself.
        relation: Relation of the number to the bound.
        of: The number that is compared.
    """

    bound: float
    relation: Literal["<=", ">=", "<"] = "<="
    of: Literal["ratio", "value"] = "ratio"

    def met_by(self, number: float) -> bool:
        """Returns True if a number reaches the goal."""
        if self.relation == ">=":
            return number >= self.bound
        return number < self.bound if self.relation == "<" else number <= self.bound


@dataclass(frozen=True)
class Figure:
    """A figure of a run.

    Attributes:
        group: The group that measured it.
        name: Its name in reports.
        unit: Unit of the values.
        value: gradwire's value.
        beside: Name of the other implementation, measured in turns with gradwire; empty if there is only a goal.
        other: Value of the other implementation.
        goal: The goal, if there is one.
        spread: The 10th and 90th percentile of the ratios of single rounds, if there were rounds.
        remark: A remark for the report.
    """

    group: str
    name: str
    unit: str
    value: float
    beside: str = ""
    other: float | None = None
    goal: Goal | None = None
    spread: tuple[float, float] | None = None
    remark: str = ""

    @property
    def ratio(self) -> float | None:
        """Ratio of gradwire's value to the other."""
        return self.value / self.other if self.other else None

    @property
    def measured(self) -> float | None:
        """The number that is compared with the goal."""
        return self.value if self.goal is not None and self.goal.of == "value" else self.ratio

    @property
    def met(self) -> bool | None:
        """True if the goal is reached; None without a goal or a number to compare."""
        if self.goal is None or self.measured is None:
            return None
        return self.goal.met_by(self.measured)
