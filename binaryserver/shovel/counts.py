"""
What the Shovel counts. An object handed in; one a process.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from binaryserver.transcode.cloudconnect_layout import Kind


def _kinds() -> dict[str, int]:
    return {kind.value: 0 for kind in Kind}


@dataclass(slots=True)
class Counts:
    """
    All counts since the process started, and how things stand.

    @ivar copied: events that are on the bus, by kind
    @ivar skipped: events that were left alone since CloudNext had them already, by kind
    @ivar rejected: records sent to C{rejects}, by the kind of their list
    @ivar batches: exchanges that brought events
    @ivar again: events that were taken before, by another reader or before a restart, and may be repeats
    @ivar failures: flushes that the bus did not take, and that were sent again
    @ivar takeovers: how often a list became ours
    @ivar backlog: events that are left in the lists, as of the last look at each
    @ivar reading: whether we are the reader, by kind
    @ivar troubles: what keeps a list from being copied, by kind; empty: nothing
    """

    copied: dict[str, int] = field(default_factory=_kinds)
    skipped: dict[str, int] = field(default_factory=_kinds)
    rejected: dict[str, int] = field(default_factory=_kinds)
    batches: int = 0
    again: int = 0
    failures: int = 0
    takeovers: int = 0
    backlog: dict[str, int] = field(default_factory=_kinds)
    reading: dict[str, bool] = field(default_factory=lambda: {kind.value: False for kind in Kind})
    troubles: dict[str, str] = field(default_factory=lambda: {kind.value: "" for kind in Kind})

    def asDict(self) -> dict[str, Any]:
        """
        By name.
        """
        return asdict(self)
