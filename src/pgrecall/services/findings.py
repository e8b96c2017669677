"""What a check says of one thing."""

from dataclasses import dataclass

from pgrecall.postgres.requirements import Level, ServerFinding


@dataclass(frozen=True, kw_only=True)
class Finding:
    """cluster None: it concerns this host. cure: what to do next, None where nothing is to be done."""

    level: Level
    topic: str
    what: str
    cure: str | None = None
    cluster: str | None = None


def sentence(finding: ServerFinding) -> str:
    """`archive_mode is off: …`, `rights: role 'x' lacks …`"""
    joint = " " if finding.why.startswith(("is ", "are ", "was ", "throws ", "cannot ")) else ": "
    return f"{finding.what}{joint}{finding.why}"
