"""A restore, step by step: killed anywhere, it leaves a directory that cannot start and that the next one cleans up."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pgrecall.clock import Clock
from pgrecall.observe.reporter import Reporter
from pgrecall.services.restore.destination import claim, finish
from pgrecall.services.restore.durable import sync_all
from pgrecall.services.restore.files import Restored, restore_files
from pgrecall.services.restore.plan import RestorePlan
from pgrecall.services.restore.prepare import make_directories, make_empty, root_entry
from pgrecall.services.restore.problems import writing
from pgrecall.services.restore.recovery import Configured, Program, write_configuration, write_control, write_label
from pgrecall.services.restore.tree import RestoredTree


@dataclass(frozen=True, slots=True)
class RestoreDone:
    """What was restored, before anybody started it."""

    plan: RestorePlan
    files: int
    bytes: int
    took_seconds: float
    configured: Configured


def execute_restore(plan: RestorePlan, program: Program, *, reporter: Reporter, clock: Clock) -> RestoreDone:
    """Do what the plan says; its first blocker is raised instead. When this returns, everything survives power loss."""
    if plan.blockers:
        raise plan.blockers[0]
    started = clock.monotonic()
    destination = plan.destination.path
    tree = RestoredTree(destination, {each.link: each.place for each in plan.tablespaces}, plan.ownership)
    with writing(str(destination)), claim(plan.destination, plan.made):
        make_directories(plan.manifest, tree, plan.tablespaces)
        _make_replay_places(plan.replay_places, tree)
        restored = _restore_files(plan, tree, reporter)
        reporter.stage("write recovery settings")
        configured = write_configuration(plan, tree, program)
        tree.settle_directory(b"", root_entry(plan.manifest).mode, plan.ownership.default)
        write_label(plan, tree)
        reporter.stage("sync to disk")
        sync_all([destination, *(each.place for each in plan.tablespaces)])
        write_control(plan, tree)
        finish(destination)
    return RestoreDone(plan, restored.files + 1, restored.bytes, clock.monotonic() - started, configured)


def _restore_files(plan: RestorePlan, tree: RestoredTree, reporter: Reporter) -> Restored:
    reporter.stage("restore files", plan.manifest.size)
    return restore_files(plan.reader, tree, jobs=plan.options.jobs, reporter=reporter)


def _make_replay_places(places: Iterable[Path], tree: RestoredTree) -> None:
    """Replay of CREATE TABLESPACE wants an empty directory that belongs to the server's user."""
    for place in places:
        make_empty(place)
        if tree.ownership.default is not None:
            os.chown(place, *tree.ownership.default)
