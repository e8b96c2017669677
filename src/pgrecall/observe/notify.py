"""[notify]: tells commands and URLs how an unattended run ended. What goes wrong here is reported, never fatal."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from pgrecall import __version__

MESSAGE_LIMIT = 4000


@dataclass(frozen=True, slots=True)
class Event:
    """How a run ended, as commands and URLs get it (schema `pgrecall.event/1`, docs/json.md). `at` is RFC 3339 UTC."""

    event: Literal["success", "failure"]
    verb: str
    cluster: str
    host: str
    at: str
    message: str
    code: str | None = None
    hint: str | None = None

    def document(self) -> bytes:
        text = json.dumps({"schema": "pgrecall.event/1", **asdict(self)}, ensure_ascii=False)
        return text.encode("utf-8", "backslashreplace")  # a message may quote a name that is no UTF-8

    def environment(self) -> dict[str, str]:
        """PGRECALL_EVENT=failure, PGRECALL_EVENT_VERB=backup…; control characters and length are tamed."""
        named = {f"PGRECALL_EVENT_{name.upper()}": value for name, value in asdict(self).items() if name != "event"}
        texts = {"PGRECALL_EVENT": self.event, **{name: value or "" for name, value in named.items()}}
        return {name: text.replace("\0", "")[:MESSAGE_LIMIT] for name, text in texts.items()}


def notify(targets: Sequence[str], event: Event, *, timeout_seconds: float) -> list[str]:
    """Tell every target; give one line for each that could not be told."""
    return [said for target in targets if (said := _tell(target, event, timeout_seconds)) is not None]


def _tell(target: str, event: Event, timeout_seconds: float) -> str | None:
    send = _post if target.startswith(("http://", "https://")) else _command
    reason = send(target, event, timeout_seconds)
    return None if reason is None else f"notification to {shown(target)} failed: {reason}"


def _post(url: str, event: Event, timeout_seconds: float) -> str | None:
    from http.client import HTTPException
    from urllib.request import Request, urlopen

    headers = {"Content-Type": "application/json", "User-Agent": f"pgrecall/{__version__}"}
    try:
        with urlopen(
            Request(url, event.document(), headers), timeout=timeout_seconds
        ) as answer:  # scheme checked above
            answer.read(1)
    except (OSError, HTTPException, ValueError) as error:
        return str(error) or type(error).__name__
    return None


def _command(command: str, event: Event, timeout_seconds: float) -> str | None:
    """Run by /bin/sh in a session of its own, so that a time-out ends its children too."""
    import subprocess

    environment: Mapping[str, str] = {**os.environ, **event.environment()}
    process = subprocess.Popen(
        ["/bin/sh", "-c", command], env=environment, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        _, said = process.communicate(event.document(), timeout=timeout_seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()
        return f"no end within {timeout_seconds:g} s"
    if process.returncode == 0:
        return None
    last = said.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
    return f"exit status {process.returncode}: {last[0]}"


def shown(target: str) -> str:
    """The target for people and logs: of a URL only scheme and host, since paths of webhooks are secrets."""
    if "://" not in target:
        return f"'{target.split()[0]} …'" if " " in target else f"'{target}'"
    scheme, _, rest = target.partition("://")
    return f"{scheme}://{rest.partition('/')[0].rpartition('@')[2]}/…"
