"""Owns the report: medians and paired ratios as JSON and as Markdown, put between the markers of a page."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from bench.limits import Limits
from bench.measure import Cost
from bench.scenario import Measured

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
OURS = "pgrecall"
COLUMNS = (
    "operation", "tool", "wall s", "CPU s", "of it server", "ours : theirs, wall", "CPU", "MB stored", "MB of memory",
    "requests",
)  # fmt: skip


def as_json(measured: Measured) -> dict[str, Any]:
    """operation → tool → rounds, every number that was measured."""

    def plain(cost: Cost) -> dict[str, Any]:
        return {name: value for name, value in asdict(cost).items() if name != "output"}

    return {
        operation: {tool: [plain(cost) for cost in costs] for tool, costs in by_tool.items()}
        for operation, by_tool in measured.costs.items()
    }


def table(result: dict[str, Any]) -> Iterator[str]:
    """result: of `as_json`."""
    yield f"| {' | '.join(COLUMNS)} |"
    yield f"|{'---|' * len(COLUMNS)}"
    for operation, by_tool in result.items():
        for tool, costs in by_tool.items():
            stored, requests = _median(costs, "stored"), _median(costs, "requests")
            words = [
                operation,
                tool,
                f"{_median(costs, 'wall'):.2f}",
                f"{median(map(_cpu, costs)):.2f}",
                f"{_median(costs, 'server_cpu'):.2f}",
                _ratio(by_tool, tool, lambda cost: float(cost["wall"])),
                _ratio(by_tool, tool, _cpu),
                "" if stored is None else f"{stored / 1e6:.1f}",
                f"{median(cost['memory'] for cost in costs) / 1e6:.0f}",
                "" if requests is None else f"{requests:.0f}",
            ]
            yield f"| {' | '.join(words)} |"


def _cpu(cost: dict[str, Any]) -> float:
    return float(cost["cpu"] + cost["server_cpu"])


def _median(costs: Sequence[dict[str, Any]], name: str) -> float | None:
    found = [cost[name] for cost in costs if cost[name] is not None]
    return median(found) if found else None


def _ratio(by_tool: dict[str, Any], tool: str, of: Callable[[dict[str, Any]], float]) -> str:
    """Median over the rounds of ours divided by this tool's in the same round."""
    if tool == OURS or OURS not in by_tool:
        return ""
    pairs = zip(by_tool[OURS], by_tool[tool], strict=False)
    return f"{median(of(ours) / max(of(theirs), 0.01) for ours, theirs in pairs):.2f}"


def limits_table(limits: dict[str, float]) -> Iterator[str]:
    names = {
        "read_warm": "read, page cache",
        "read_cold": "read, disk",
        "zstd_1_thread": "zstd 3, 128 KiB pieces, 1 thread",
        "zstd_2_threads": "zstd 3, 128 KiB pieces, 2 threads",
        "write_synced": "write 1 GiB and fsync",
    }
    yield "| the machine's own limits on this data | MB/s |"
    yield "|---|---|"
    for name, text in names.items():
        yield f"| {text} | {limits[name]:.0f} |"
    yield f"\nThe data shrinks by {limits['zstd_ratio']:.2f} in such pieces."


def limits_json(limits: Limits) -> dict[str, float]:
    return asdict(limits)


def markdown(result: dict[str, Any]) -> str:
    """The whole measured part of the page."""
    lines = [f"Measured on {result['date']}: " + ", ".join(f"{k} {v}" for k, v in result["machine"].items()) + "."]
    lines.append("Programs: " + ", ".join(f"{name} {text}" for name, text in result["versions"].items()) + ".")
    for scenario in result["scenarios"]:
        lines += ["", f"### {scenario['title']}", "", scenario["about"], ""]
        if scenario.get("limits"):
            lines += [*limits_table(scenario["limits"]), ""]
        lines += table(scenario["measured"])
    return "\n".join(lines) + "\n"


def write_page(page: Path, text: str) -> None:
    """Replace what is between the markers; the text around them stays."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    assert end, f"{page} lacks its markers"
    page.write_text(f"{before}{BEGIN}\n{text}{END}{after}", encoding="utf-8")
