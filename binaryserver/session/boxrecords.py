"""
What the session store tells operators of boxes, and what it remembers of how their links ended.

Times are Unix ms.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from binaryserver.model import BoxKey, MqttSession, Owner, StreamMark

KEPT_EVENTS = 8
"""How many events of a box are remembered; those of one kind and reason in a row are one."""

MOST_STRANGERS = 1000
"""How many of the names are remembered that were refused, and that neither the store nor the directory has as a box."""


class EventKind(Enum):
    """
    How a link ended, or that there came none.
    """

    disconnected = "disconnected"
    takenOver = "taken_over"
    refused = "refused"


class BoxEvent(NamedTuple):
    """
    Something that happened to a box, as often as it did so in a row.

    @ivar at: the last time
    @ivar reason: a reason of presences; empty: a refusal that was our own fault
    @ivar detail: for a person to read; may be empty
    @ivar protocol: C{"md30"} or C{"md21"}
    @ivar peer: the IP address that it came from the last time; of C{takenOver}, that of the link that took it over
    @ivar instance: likewise the instance, or its incarnation
    @ivar times: how often in a row
    @ivar linkEpoch: of the link that ended; of C{takenOver}, of the one that took it over; 0: there was none
    @ivar since: the first time
    """

    kind: EventKind
    at: int
    reason: str
    detail: str = ""
    protocol: str = ""
    peer: str = ""
    instance: str = ""
    linkEpoch: int = 0
    times: int = 1
    since: int = 0

    @property
    def sameness(self) -> str:
        """
        What two events in a row have alike that are one: ASCII without line feeds.
        """
        return json.dumps([self.kind.value, self.reason, self.detail, self.protocol], separators=(",", ":"))


def remembered(events: Sequence[BoxEvent], event: BoxEvent) -> list[BoxEvent]:
    """
    Events, the oldest first, and one more, of once.
    """
    if events and events[-1].sameness == event.sameness:
        last = events[-1]
        return [*events[:-1], event._replace(times=last.times + 1, since=last.since)]
    return [*events, event._replace(since=event.at)][-KEPT_EVENTS:]


def takenOver(nowMs: int, protocol: str, peer: str, incarnation: str, linkEpoch: int) -> BoxEvent:
    """
    That a connected box was claimed for another link.

    @param linkEpoch: of that link
    """
    return BoxEvent(EventKind.takenOver, nowMs, "TAKEOVER", "", protocol, peer, incarnation, linkEpoch)


class RefusalNote(NamedTuple):
    """
    Somebody was not let in under the name of a box.

    @ivar isBox: the directory has a box of that name
    """

    box: BoxKey
    event: BoxEvent
    isBox: bool


class BoxSummary(NamedTuple):
    """
    A box that came at least once.

    @ivar protocol: of its last link
    @ivar peer: likewise, its IP address
    @ivar since: likewise, when it was claimed
    @ivar isListening: it is subscribed to its downlink
    """

    box: BoxKey
    owner: Owner
    protocol: str
    peer: str
    since: int
    isListening: bool


class BoxQuery(NamedTuple):
    """
    Which boxes are asked for.

    @ivar account: empty: any
    @ivar prefix: of the asset; empty: any
    @ivar isConnected: L{None}: either
    """

    account: str = ""
    prefix: str = ""
    isConnected: bool | None = None

    def matches(self, box: BoxKey, isConnected: bool) -> bool:
        """
        Whether a box is one of them.
        """
        if self.account and box.account != self.account:
            return False
        return box.asset.startswith(self.prefix) and self.isConnected in (None, isConnected)


class BoxPage(NamedTuple):
    """
    A part of the list of boxes.

    @ivar after: behind which box the next part begins; L{None}: there is none
    """

    boxes: tuple[BoxSummary, ...]
    after: BoxKey | None


class MailboxSummary(NamedTuple):
    """
    What waits for a box.

    @ivar messages: those without a final status
    @ivar size: bytes of their payloads
    @ivar oldest: when the oldest was queued that the box has not acked; 0: there is none
    """

    messages: int = 0
    size: int = 0
    oldest: int = 0


class BoxRecord(NamedTuple):
    """
    All that is kept of a box, without the messages' payloads and the fingerprints themselves.

    @ivar summary: L{None}: it never came
    @ivar isOwnerAlive: its owner's lease is valid
    @ivar fingerprints: how many
    @ivar events: the last ones, the oldest first
    """

    summary: BoxSummary | None
    isOwnerAlive: bool
    marks: tuple[StreamMark, ...]
    mqtt: MqttSession | None
    fingerprints: int
    mailbox: MailboxSummary
    events: tuple[BoxEvent, ...]
