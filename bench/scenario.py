"""Owns what is done in which order: rounds in which every tool does the same with the same server."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench.cluster import change_pages
from bench.measure import Cost, evict, settle, warm
from bench.tools import Kind, Tool, Which
from pgrecall.postgres.scratch import ScratchServer

Say = Callable[[str], None]


@dataclass(slots=True)
class Measured:
    """All costs: by operation, by tool, one per round."""

    costs: dict[str, dict[str, list[Cost]]] = field(default_factory=dict)

    def add(self, operation: str, tool: Tool, cost: Cost | None) -> None:
        if cost is not None:
            self.costs.setdefault(operation, {}).setdefault(tool.name, []).append(cost)


class Rounds:
    """Repeats a scenario. The tools take turns in going first, so that none always finds the machine as it left it."""

    def __init__(self, server: ScratchServer, tools: Sequence[Tool], home: Path, say: Say) -> None:
        self._server = server
        self._tools = list(tools)
        self._home = home
        self._say = say
        self._done = Measured()

    def life(self, rounds: int) -> Measured:
        """A full backup, increments after 1 % and 20 % of the pages changed and after nothing, restores, verify."""
        for number in range(rounds):
            self._begin(number)
            self._backup("full backup", "full")
            for percent in (1, 20):
                change_pages(self._server, percent)
                self._backup(f"increment, {percent} % of the pages changed", "incr")
            self._backup("increment, nothing changed", "incr")
            self._restore("restore of the full backup", "full")
            self._restore("restore of the last increment", "last")
            self._verify()
            self._end()
        return self._done

    def many_files(self, rounds: int) -> Measured:
        """A full backup and one after nothing changed, restored."""
        for number in range(rounds):
            self._begin(number)
            self._backup("full backup", "full")
            self._backup("increment, nothing changed", "incr")
            self._restore("restore of the last increment", "last")
            self._end()
        return self._done

    def _begin(self, number: int) -> None:
        self._say(f"round {number + 1}")
        self._tools.append(self._tools.pop(0))
        for tool in self._tools:
            home = self._place(tool)
            home.mkdir(parents=True)
            tool.prepare(home, self._server)

    def _end(self) -> None:
        for tool in self._tools:
            shutil.rmtree(self._place(tool))

    def _backup(self, operation: str, kind: Kind) -> None:
        for tool in self._tools:
            warm(self._server.pgdata / "base")
            self._measure(operation, tool, partial(tool.backup, kind))

    def _restore(self, operation: str, which: Which) -> None:
        for tool in self._tools:
            # Removed at the round's end: ext4 is slow to create files where some were deleted minutes ago.
            destination = self._place(tool) / f"restored-{which}"
            evict(tool.repository)
            self._measure(operation, tool, partial(tool.restore, which, destination))

    def _verify(self) -> None:
        for tool in self._tools:
            evict(tool.repository)
            self._measure("verify all of it", tool, tool.verify)

    def _measure(self, operation: str, tool: Tool, action: Callable[[], Cost | None]) -> None:
        settle()
        cost = action()
        self._done.add(operation, tool, cost)
        if cost is not None:
            self._say(
                f"  {operation}: {tool.name}: {cost.wall:.2f} s, CPU {cost.cpu:.2f} + {cost.server_cpu:.2f} s, "
                f"{cost.memory / 1e6:.0f} MB of memory"
                + (f", {cost.stored / 1e6:.1f} MB stored" if cost.stored is not None else "")
            )

    def _place(self, tool: Tool) -> Path:
        return self._home / tool.name.replace(" ", "-")
