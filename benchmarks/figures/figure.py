"""One figure: what gradwire needs, what something beside it needs, and what is to be reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Goal:
    """What is to be reached.

    Attributes:
        bound: Of the ratio, or of gradwire's value itself.
        relation: How it compares with the bound.
        of: What is compared.
    """

    bound: float
    relation: Literal["<=", ">=", "<"] = "<="
    of: Literal["ratio", "value"] = "ratio"

    def met_by(self, number: float) -> bool:
        """Whether a number reaches it."""
        if self.relation == ">=":
            return number >= self.bound
        return number < self.bound if self.relation == "<" else number <= self.bound


@dataclass(frozen=True)
class Figure:
    """A figure of a run.

    Attributes:
        group: That measured it.
        name: What it is.
        unit: Of the values.
        value: gradwire's.
        beside: What it is held against, and measured in turns with; empty if it is held against its goal alone.
        other: Its value.
        goal: What is to be reached; None: the figure is there to be known.
        spread: The 10th and 90th percentile of the ratios of single rounds, where there were rounds.
        remark: What else is to be known of it.
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
        """gradwire's value as a multiple of the other."""
        return self.value / self.other if self.other else None

    @property
    def measured(self) -> float | None:
        """The number that is held against the goal."""
        return self.value if self.goal is not None and self.goal.of == "value" else self.ratio

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None where there is no goal or nothing to hold against it."""
        if self.goal is None or self.measured is None:
            return None
        return self.goal.met_by(self.measured)
