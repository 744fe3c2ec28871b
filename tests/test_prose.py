"""First lines of docstrings: phrases that a stranger would search for, in at most 20 words."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("proto", "client", "server", "backends", "benchmarks", "deploy", "tests")
QUESTION = re.compile(r"(What|Who|Whom|Whose|Whoever|Whatever|Which|Where|When|Whether|How|Why)\b")
MOST_WORDS = 20


def first_lines(file: Path) -> Iterator[tuple[str, str]]:
    """The place and the first line of each docstring of a file."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node)
            if docstring:
                yield f"{file.relative_to(ROOT)}: {getattr(node, 'name', 'module')}", docstring.strip().splitlines()[0]


def sources(folder: str) -> list[Path]:
    """Python files of a folder that people wrote."""
    return [file for file in (ROOT / folder).rglob("*.py") if "_pb2" not in file.name and "corpus" not in file.parts]


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_docstring_begins_with_a_question_word(folder: str) -> None:
    assert not [f"{place}: {line}" for file in sources(folder) for place, line in first_lines(file) if QUESTION.match(line)]


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_first_line_has_at_most_twenty_words(folder: str) -> None:
    """The first sentence counts; what else stands on the line does not."""
    long = [
        f"{place}: {line}"
        for file in sources(folder)
        for place, line in first_lines(file)
        if len(re.split(r"[.:;] ", line)[0].split()) > MOST_WORDS
    ]
    assert not long
