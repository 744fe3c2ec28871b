"""Tables of docs/scaling.md, written between markers from the results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.scaling.costs import ASSUMED, COSTS_FILE, LEASE_ROWS, MAX_BATCH_ROWS, MEASURED, STORES, store
from benchmarks.scaling.study import GPUS, SHOWN, TOPOLOGIES, WHAT_IF_CLIENTS, WHAT_IF_GPUS
from benchmarks.scaling.workload import NAMES, WAYS, Kind, kind
from benchmarks.setting import RESULTS

_ROOT = Path(__file__).resolve().parents[2]
FIGURES = RESULTS / "scaling.json"
DOCUMENT = _ROOT / "docs" / "scaling.md"
PICTURE = _ROOT / "docs" / "pictures" / "scaling.png"

_TITLES = {"query": "One row", "pgd128": "128 small rows", "pgd64": "64 large rows"}
Result = Mapping[str, Any]


def begin(name: str) -> str:
    """Makes the marker before a table."""
    return f"<!-- {name}: written by `python -m benchmarks.scaling` -->"


def end(name: str) -> str:
    """Makes the marker after a table."""
    return f"<!-- end of {name} -->"


def digest(costs: Mapping[str, Any]) -> str:
    """Computes a digest of the measured costs."""
    return hashlib.blake2b(json.dumps(costs, sort_keys=True).encode(), digest_size=8).hexdigest()


def tables(figures: Mapping[str, Any]) -> dict[str, str]:
    """Makes all tables by name, in markdown."""
    grids = {f"results {name}": _grid(figures["grid"], name) for name in NAMES}
    return {
        "capacities": _capacities(),
        "most": _most(figures["grid"]),
        **grids,
        "what if": _what_if(figures["what_if"]),
        "validation": _validation(figures["validation"]),
        "measured": _measured(),
        "assumed": _table(("assumed", "as", "because"), ([name, *of] for name, of in ASSUMED.items()), left=3),
    }


def document(text: str, figures: Mapping[str, Any]) -> str:
    """Replaces the tables in a document's text. Raises ValueError if it lacks the markers of one."""
    for name, table in tables(figures).items():
        before, found, rest = text.partition(begin(name))
        _, closed, after = rest.partition(end(name))
        if not (found and closed):
            raise ValueError(f"{DOCUMENT.name} has no {begin(name)} with {end(name)} after it; put both where the table belongs")
        text = f"{before}{begin(name)}\n{table}\n{end(name)}{after}"
    return text


def write_document(figures: Mapping[str, Any]) -> None:
    """Writes the tables of these figures into the document."""
    DOCUMENT.write_text(document(DOCUMENT.read_text(), figures))


def _capacities() -> str:
    """Computes the calls a second of each resource if only it took time."""
    kinds = [kind(name) for name in NAMES]
    bits_per_s = 25e9

    def front_end(of: Kind) -> str:
        runner_s = of.batch_s + of.gpu.launch_share * of.gpu.floor_s
        merged = max(1, MAX_BATCH_ROWS // of.rows)
        least, most = 1 / (of.loop_s + of.blocks * runner_s), 1 / (of.loop_s + of.blocks * runner_s / merged)
        return _number(least) if merged == 1 else f"{_number(least)} to {_number(most)}"

    def leases(rows: int) -> Iterable[str]:
        postgresql = store("postgresql")
        return (_number(postgresql.leases_at_once / postgresql.lease_s / min(1.0, of.rows / rows)) for of in kinds)

    rows = [
        ["one server's interpreter", *(front_end(of) for of in kinds)],
        ["one GPU, batches full", *(_number(of.gpu.rows_per_s / of.rows) for of in kinds)],
        ["a node's network, 25 Gbit/s", *(_number(bits_per_s / 8 / max(of.request_nbytes, of.answer_nbytes)) for of in kinds)],
        *([f"the ledger, {store(name).name}", *([_number(store(name).most_calls_per_s)] * len(kinds))] for name in STORES),
        *([f"leases of PostgreSQL, `lease_rows: {rows}`", *leases(rows)] for rows in (LEASE_ROWS, 10_000)),
    ]
    return _table(("calls/s of", *(_TITLES[of.name].lower() for of in kinds)), rows, left=1)


def _most(results: Iterable[Result]) -> str:
    """Finds the highest throughput over all numbers of clients, and the fewest clients within a tenth of it."""
    found: dict[tuple[str, int, str], list[Result]] = {}
    for of in results:
        found.setdefault((of["kind"], of["gpus"], of["topology"]), []).append(of)
    rows = []
    for name in NAMES:
        for gpus in GPUS:
            row = [_TITLES[name].lower(), str(gpus)]
            for topology in TOPOLOGIES:
                line = sorted(found.get((name, gpus, topology), []), key=lambda of: of["clients"])
                if not line:
                    row += ["", "", ""]
                    continue
                most = max(of["calls_per_s"] for of in line)
                first = next(of for of in line if of["calls_per_s"] >= 0.9 * most)
                row += [_number(most), f"{first['clients']:,}", _busiest(first)]
            rows.append(row)
    head = [f"{what}{column}" for what in ("", "one front: ", "fronts: ") for column in ("most calls/s", "from clients", "busiest")]
    return _table(("", "GPUs", *head), rows, left=1)


def _grid(results: Iterable[Result], name: str) -> str:
    found = {(of["topology"], of["gpus"], of["clients"]): of for of in results if of["kind"] == name}
    rows = []
    for gpus in GPUS:
        for clients in SHOWN:
            servers = found["servers", gpus, clients]
            front = found["front", gpus, clients]
            fronts = found.get(("fronts", gpus, clients))
            rows.append(
                [
                    str(gpus),
                    f"{clients:,}",
                    _number(servers["calls_per_s"]),
                    _number(servers["rows_per_s"]),
                    f"{servers['utilisation']['GPU']:.0%}",
                    _latency(servers),
                    _busiest(servers),
                    _number(front["calls_per_s"]),
                    _latency(front),
                    _busiest(front),
                    *(("", "", "") if fronts is None else (_number(fronts["calls_per_s"]), _latency(fronts), _busiest(fronts))),
                ]
            )
    head = ("GPUs", "clients", "calls/s", "rows/s", "GPU", "p50, p99 ms", "busiest")
    return _table(
        (*head, *(f"{what}: {column}" for what in ("one front", "fronts") for column in (head[2], *head[5:]))), rows, left=0
    )


def _what_if(results: Iterable[Result]) -> str:
    found: dict[str, dict[str, Result]] = {}
    for of in results:
        found.setdefault(of["name"], {})[of["kind"]] = of
    rows = [
        [title, *(cell for name in NAMES for cell in (_number(of[name]["calls_per_s"]), _busiest(of[name])))]
        for title, of in found.items()
    ]
    head = [f"{WHAT_IF_GPUS} GPUs, {WHAT_IF_CLIENTS:,} clients"]
    for name in NAMES:
        head += [f"{_TITLES[name].lower()}: calls/s", "busiest"]
    return _table(head, rows, left=1)


def _validation(results: Iterable[Result]) -> str:
    rows = []
    for of in results:
        measured, model, published = of["measured_per_s"], of["model_per_s"], of["published_per_s"]
        rows.append(
            [
                f"{of['operation']}, {of['clients']} client{'s' if of['clients'] > 1 else ''}",
                _number(measured),
                "" if published is None else _number(published),
                _number(model),
                f"{model / (published or measured) - 1:+.0%}",
                f"{of['measured_batch']:.1f}",
                f"{of['model_batch']:.1f}",
            ]
        )
    head = ("CNN, 1 row, one host", "measured, calls/s", "on a quiet machine", "model", "model's error", "rows a batch", "model's")
    return _table(head, rows, left=1)


def _measured() -> str:
    rows: list[list[str]] = []
    for name in NAMES:
        of = kind(name)
        for way, title in WAYS.items():
            cost = MEASURED["calls"][f"{name}, {way}"]
            rows.append(
                [
                    f"{_TITLES[name].lower()}, {title}",
                    f"server's interpreter {_us(cost['loop_us'])}, gRPC's own threads {_us(cost['grpc_us'])}, "
                    f"client {_us(cost['client_us'])}",
                    _when("calls"),
                ]
            )
        rows.append([f"{_TITLES[name].lower()}, ART between calls", _us(1e6 * of.attack_s), _when("attacks")])
        runner = f"{_us(1e6 * of.batch_s)} a batch, {_us(1e6 * of.batch_block_s)} a further block"
        rows.append([f"{_TITLES[name].lower()}, the runner", runner, _when("runner")])
    rows.append(["a call that is refused", _us(MEASURED["refusal_us"]), _when("refusal")])
    for name in STORES:
        of_store, costs = store(name), MEASURED["stores"][name]
        most = f"at most {_number(of_store.most_calls_per_s)} calls/s"
        rows += [
            [
                f"{of_store.name}, a batch of the ledger",
                f"{_us(costs['batch_us'])} and {_us(costs['call_us'])} a call: {most}; "
                f"{_number(costs['calls_per_s']['1 servers'])} sustained by one server, "
                f"{_number(costs['calls_per_s']['4 servers'])} by four",
                _when(name),
            ],
            [
                f"{of_store.name}, a lease",
                f"{_us(costs['lease_us'])}, {_us(costs['lease_cpu_us'])} of them the server's processor; leases/s: "
                + ", ".join(f"{_number(per_s)} ({who})" for who, per_s in costs["leases_per_s"].items()),
                _when(name),
            ],
        ]
    return _table(("measured", "", f"`{COSTS_FILE.name}`"), rows, left=3)


def _when(part: str) -> str:
    of = MEASURED["measured"][part]
    return f"{str(of['date'])[:10]}, {of['cpu']}, {of['cores']} cores"


def _busiest(of: Result) -> str:
    bottleneck = of["bottleneck"]
    highest = max(of["utilisation"].items(), key=lambda pair: pair[1])
    told = f"{highest[0]} {min(1.0, highest[1]):.0%}"
    told = told if bottleneck == highest[0] else f"({told})"
    return told if of["refused"] < 0.005 else f"{told}; {of['refused']:.0%} refused"


def _latency(of: Result) -> str:
    return f"{_ms(of['p50_s'])}, {_ms(of['p99_s'])}"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2g}" if seconds < 0.0995 else f"{1e3 * seconds:,.0f}"


def _us(us: float) -> str:
    return f"{us:.0f} µs" if us < 9950 else f"{us / 1e3:.1f} ms"


def _number(value: float) -> str:
    """Formats a number with three digits."""
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]], left: int) -> str:
    titles = list(head)
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * left}{'--:|' * (len(titles) - left)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
