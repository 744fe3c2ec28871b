"""``gradwire serve`` that counts how often its configuration is processed, and prints the counts at its end as JSON."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import typer
import yaml

from gradwire.backends.ensemble import Config
from gradwire.server.commands.serve import serve
from gradwire.server.process import service

counts: Counter[str] = Counter()


def count(owner: Any, name: str) -> None:
    """Counts the calls of a function of a module or class; reads of other files than the configuration do not count."""
    function = getattr(owner, name)

    def counted(*args: Any, **kwargs: Any) -> Any:
        counts[name] += owner is not Path or args[0] == Path(sys.argv[1])
        return function(*args, **kwargs)

    setattr(owner, name, counted)


if __name__ == "__main__":
    count(yaml, "safe_load")
    count(Path, "read_text")
    count(Config, "completed")
    count(service, "check_listener")
    try:
        typer.run(serve)
    finally:
        print(json.dumps(counts), flush=True)
