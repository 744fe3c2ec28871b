"""Coverage-guided fuzzing of what reads other people's bytes: ``python -m fuzz.run TARGET --seconds N`` in ``tests``.

New inputs that reach new code are kept in ``--corpus`` (a scratch folder unless told); ``--merge FOLDER`` adds the smallest
set of them that reaches all there is to what is kept beside this file. An input that breaks something is written to the
folder of ``--artifacts``, and the process ends with libFuzzer's code, not 0.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import resource
import shlex
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
TARGETS = tuple(sorted(path.stem for path in (HERE / "targets").glob("[a-z]*.py")))
MEMORY_NBYTES = 768 << 20
"""Of address space, beyond what is there when fuzzing begins: an allocation that no limit allows fails."""
MAX_NBYTES = 16384
"""Of one input."""


def main() -> None:
    """Fuzzes one target for a while."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.run", description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60, help="how long; 0: only the kept inputs, once each")
    parser.add_argument("--corpus", type=Path, help="where new inputs are kept")
    parser.add_argument("--artifacts", type=Path, default=Path(tempfile.gettempdir()), help="where inputs that break something go")
    parser.add_argument("--merge", type=Path, help="add to the kept inputs what this folder's reach beyond them")
    chosen, own = parser.parse_known_args()
    program = sys.argv[0]

    # What the server logs of calls that fail takes longer than the calls.
    logging.disable(logging.CRITICAL)
    import atheris

    with atheris.instrument_imports(include=["gradwire.wire", "gradwire.server", "gradwire.client", "gradwire.backends.estimator"]):
        target = importlib.import_module(f"fuzz.targets.{chosen.target}")
    kept = CORPUS / chosen.target
    kept.mkdir(parents=True, exist_ok=True)
    if own:
        arguments = own
    elif chosen.merge:
        program = _launcher(chosen.target)
        arguments = ["-merge=1", str(kept), str(chosen.merge)]
    elif not chosen.seconds:
        arguments = ["-runs=0", str(kept)]
    else:
        new = chosen.corpus or Path(tempfile.mkdtemp(prefix=f"gradwire-fuzz-{chosen.target}-"))
        new.mkdir(parents=True, exist_ok=True)
        arguments = [f"-max_total_time={chosen.seconds}", str(new), str(kept)]
    limits = [
        f"-max_len={MAX_NBYTES}",
        "-timeout=20",
        "-rss_limit_mb=2048",
        f"-artifact_prefix={chosen.artifacts}/{chosen.target}-",
    ]
    # Once, so that models are loaded and threads there before memory is counted.
    target.one_input(b"")
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit_nbytes = pages * resource.getpagesize() + MEMORY_NBYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit_nbytes, limit_nbytes))
    atheris.Setup([program, *limits, "-print_final_stats=1", *arguments], target.one_input)
    atheris.Fuzz()


def _launcher(target: str) -> str:
    """A program that libFuzzer starts, with arguments of its own, for the inner part of a merge."""
    path = Path(tempfile.mkdtemp(prefix="gradwire-fuzz-")) / "run"
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m fuzz.run {target} "$@"\n')
    path.chmod(0o700)
    return str(path)


if __name__ == "__main__":
    main()
