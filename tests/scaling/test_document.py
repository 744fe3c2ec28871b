"""docs/scaling.md says what the model found, and the model was fed with what was measured."""

from __future__ import annotations

import json

from benchmarks.scaling import report
from benchmarks.scaling.costs import MEASURED


def test_the_tables_in_the_document_are_those_of_the_results() -> None:
    figures = json.loads(report.FIGURES.read_text())
    text = report.DOCUMENT.read_text()
    assert report.document(text, figures) == text, "run `python -m benchmarks.scaling --tables`"


def test_the_results_are_those_of_what_was_measured() -> None:
    figures = json.loads(report.FIGURES.read_text())
    assert figures["costs"] == report.digest(MEASURED), "run `python -m benchmarks.scaling`: costs were measured anew since"


def test_nothing_was_measured_in_a_hurry() -> None:
    assert not [part for part, machine in MEASURED["measured"].items() if machine["quick"]]
