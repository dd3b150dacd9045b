"""
What the parts of an instance tell of themselves, beside what they count anyway. An object handed in; one a process.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from binaryserver.metrics.histogram import (
    ACK_BOUNDS,
    CALL_BOUNDS,
    LAG_BOUNDS,
    WAIT_BOUNDS,
    WORK_BOUNDS,
    Histogram,
)


@dataclass(slots=True)
class Traffic:
    """
    Of the links of one box protocol, since the start.

    @ivar bytesIn: of what boxes sent, without TLS
    @ivar bytesOut: of what they were sent, likewise
    @ivar packetsIn: packets, PDUs of MD21, that brought something to do; pings are among C{controls}
    @ivar controls: pings, SUBSCRIBEs, UNSUBSCRIBEs
    """

    bytesIn: int = 0
    bytesOut: int = 0
    packetsIn: int = 0
    controls: int = 0


class Calls:
    """
    Calls of a back end.

    @ivar seconds: how long they took, those that failed included
    @ivar made: how many of each have ended, by its name
    @ivar failures: of those, how many were not answered
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.seconds = Histogram(CALL_BOUNDS)
        self.made = dict.fromkeys(names, 0)
        self.failures = 0


STORE_CALLS = (
    "accounts",
    "adopt",
    "boxRecord",
    "bury",
    "claim",
    "commitFingerprints",
    "commitMarks",
    "draw",
    "dueMessages",
    "erase",
    "fingerprints",
    "isDead",
    "leaseWorker",
    "links",
    "listBoxes",
    "mailbox",
    "mailboxMessages",
    "marks",
    "noteRefusals",
    "progressMessages",
    "purge",
    "putMessages",
    "refusedAs",
    "release",
    "removeMessages",
    "renew",
    "resign",
    "restore",
    "saveMqtt",
    "takeMessages",
)
"""Those of L{binaryserver.interfaces.ISessionStore} that ask the store something."""

DIRECTORY_CALLS = ("account", "box")
"""Those of L{binaryserver.interfaces.IDirectorySource}."""


@dataclass(slots=True)
class Observed:
    """
    @ivar acks: s from when a PUBLISH or block was taken to its ack
    @ivar transcoding: s that what one read brought (several PUBLISHes that follow each other, or one, or a block) took
        from the box's form to the cloud's
    @ivar reactorLag: s by which the reactor was late
    @ivar mailWait: s from when a message for a box was put into its mailbox to its final status
    @ivar traffic: by box protocol
    """

    acks: Histogram = field(default_factory=lambda: Histogram(ACK_BOUNDS))
    transcoding: Histogram = field(default_factory=lambda: Histogram(WORK_BOUNDS))
    reactorLag: Histogram = field(default_factory=lambda: Histogram(LAG_BOUNDS))
    mailWait: Histogram = field(default_factory=lambda: Histogram(WAIT_BOUNDS))
    store: Calls = field(default_factory=lambda: Calls(STORE_CALLS))
    directory: Calls = field(default_factory=lambda: Calls(DIRECTORY_CALLS))
    traffic: dict[str, Traffic] = field(default_factory=lambda: {"md30": Traffic(), "md21": Traffic()})

    def trafficOf(self, protocol: str) -> Traffic:
        """
        Of one box protocol, by its name.
        """
        return self.traffic.setdefault(protocol, Traffic())
