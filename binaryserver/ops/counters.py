"""
What the gateway counts. An object handed in; one a process.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from binaryserver.model import FinalStatus


@dataclass(slots=True)
class Counters:
    """
    All counts since the process started.

    @ivar connects: links that became a box's
    @ivar refusals: CONNECTs and headers answered with a refusal
    @ivar refusalReasons: of those that were the peer's fault, by reason
    @ivar violations: links closed because the peer broke the protocol or was too slow
    @ivar tracks: tracks sent to the bus
    @ivar messages: messages of boxes sent to the bus
    @ivar duplicates: tracks and messages acked and not published, since their index was taken before
    @ivar holes: batches and messages before which the box skipped indices
    @ivar unindexed: tracks without an index
    @ivar rejects: records sent to C{rejects}
    @ivar unknownNames: names in JSON that no schema knows, ignored
    @ivar foreignWills: last wills outside their box's topics, or unusable as a reason, dropped
    @ivar downlinkMessages: messages for boxes that were consumed
    @ivar finals: final statuses told, by their names
    @ivar orphans: boxes of dead instances told disconnected
    """

    connects: int = 0
    refusals: int = 0
    refusalReasons: dict[str, int] = field(default_factory=dict)
    violations: int = 0
    tracks: int = 0
    messages: int = 0
    duplicates: int = 0
    holes: int = 0
    unindexed: int = 0
    rejects: int = 0
    unknownNames: int = 0
    foreignWills: int = 0
    downlinkMessages: int = 0
    finals: dict[str, int] = field(default_factory=lambda: {status.value: 0 for status in FinalStatus})
    orphans: int = 0

    def asDict(self) -> dict[str, Any]:
        """
        By name.
        """
        return asdict(self)
