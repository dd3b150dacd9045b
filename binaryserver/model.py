"""
Frozen values that pass between the parts of the gateway.

Units are in the names or docstrings; times are Unix ms unless they are said to be of the reactor's clock (float s).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

EPOCH_2010_MS = 1_262_304_000_000
"""2010-01-01 in Unix ms: the origin of ids and link epochs."""


class BoxKey(NamedTuple):
    """
    Who a box is.
    """

    account: str
    asset: str

    @property
    def busKey(self) -> bytes:
        """
        The key of its records on the bus: C{ACCOUNT/ASSET}.
        """
        return f"{self.account}/{self.asset}".encode()


class Record(NamedTuple):
    """
    One record for the bus.

    @ivar key: bytes, C{ACCOUNT/ASSET}
    @ivar value: bytes, one serialized message
    @ivar headers: pairs of name and UTF-8 value; a bus that keeps no headers drops them
    """

    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes]] = ()


class StoredRecord(NamedTuple):
    """
    One record as the bus gives it back.

    @ivar timestamp: Unix ms, when the bus took it
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes]] = ()


class StreamMark(NamedTuple):
    """
    How far a stream of a box is durable.

    @ivar committed: every index up to it is on the bus or was skipped by the box
    @ivar latest: the latest recorded time (Unix ms) among the tracks that the mark covers
    """

    stream: int
    committed: int
    latest: int


class MarkUpdate(NamedTuple):
    """
    A L{StreamMark} of one box, for the session store.
    """

    box: BoxKey
    stream: int
    committed: int
    latest: int


class FingerprintUpdate(NamedTuple):
    """
    Fingerprints of tracks of one box, for the session store.

    @ivar fingerprints: bytes, 8 of each track, in the order in which they were committed
    """

    box: BoxKey
    fingerprints: bytes


class Owner(NamedTuple):
    """
    Who holds, or last held, a box's link.

    @ivar incarnation: C{INSTANCE@START}: one run of one gateway process
    @ivar linkEpoch: the epoch it got with its claim
    @ivar connected: it has not said since that the link is gone
    @ivar seenAt: Unix ms, when that link was claimed or, once it is gone, when it ended
    """

    incarnation: str
    linkEpoch: int
    connected: bool
    seenAt: int = 0


class MqttSession(NamedTuple):
    """
    What MQTT keeps of a client between its links [MQTT-3.1.2-5].

    @ivar subscriptions: pairs of topic filter and granted QoS, in the order of their making
    @ivar received: packet ids of QoS 2 PUBLISHes that were committed and not yet released (PUBREL)
    """

    subscriptions: tuple[tuple[str, int], ...] = ()
    received: tuple[int, ...] = ()


class Claim(NamedTuple):
    """
    What the session store answers when an instance takes a box.

    @ivar linkEpoch: the epoch of the new link
    @ivar previous: who held the box before; L{None} if nobody ever did
    @ivar marks: of the box's last streams, the most recently committed last, at most L{KEPT_STREAMS}
    @ivar mqtt: the MQTT session that was kept; L{None} if there was none or a clean one was asked for
    """

    linkEpoch: int
    previous: Owner | None
    marks: tuple[StreamMark, ...]
    mqtt: MqttSession | None


KEPT_STREAMS = 4
"""How many streams of a box are remembered (DESIGN 7)."""

NO_QUEUE_MS = 2000
"""A C{noQueue} message that was not sent by then never is: its box was lost meanwhile, or has no room."""

RETRY_MS = 20_000
"""How long whoever chose a final status has to publish it before others do."""

REMEMBERED_MS = 86_400_000
"""How long after its expiry the id of a finished message is known."""


class Clouds(Enum):
    """
    Where an account's events go.
    """

    cloudnext = "cloudnext"
    cloudconnect = "cloudconnect"
    both = "both"


class Renewal(Enum):
    """
    What the session store says to an incarnation that renews its lease.
    """

    renewed = "it is known and alive"
    unknown = "no such lease: the store lost its memory"
    declaredDead = "another instance has declared it dead"
    superseded = "another process runs under the name of its instance"


class LinkState(NamedTuple):
    """
    What an owner knows of a box whose link it holds, to be written again.

    @ivar isListening: the box is subscribed to its downlink
    """

    box: BoxKey
    linkEpoch: int
    protocol: str
    peer: str
    since: int
    marks: tuple[StreamMark, ...]
    mqtt: MqttSession | None
    isListening: bool


DRAW_BURST = 2.0
"""s: how much of a rate an account may take at once after it took nothing."""


class Draw(NamedTuple):
    """
    A wish for some of what an account may do.

    @ivar kind: what is limited, e.g. C{"messages"}
    @ivar wanted: above 0; more than C{rate * DRAW_BURST}, or C{least}, is never granted at once
    @ivar rate: a second, above 0
    @ivar least: if there is not so much, nothing is granted, and nothing spent
    """

    account: str
    kind: str
    wanted: float
    rate: float
    least: float = 0.0


class Erased(NamedTuple):
    """
    What was removed of a box.

    @ivar wasKnown: anything was kept of it
    @ivar isConnected: it is connected, so that nothing was removed
    @ivar messages: how many were in its mailbox
    @ivar streams: track streams whose marks were kept
    @ivar fingerprints: how many were kept
    """

    wasKnown: bool
    isConnected: bool
    messages: int
    streams: int
    fingerprints: int


class Orphan(NamedTuple):
    """
    A box of a dead incarnation, taken over in order to tell that it is gone.

    @ivar linkEpoch: the new one
    @ivar lostEpoch: that of the link that died
    @ivar previous: who held the box before the one that died claimed it; L{None} if that is not known
    """

    box: BoxKey
    linkEpoch: int
    lostEpoch: int
    protocol: str
    peer: str
    previous: Owner | None


class FinalStatus(Enum):
    """
    How a downlink message ends (G5).
    """

    acked = "acked"
    refused = "refused"
    expired = "expired"
    rejected = "rejected"


class Final(NamedTuple):
    """
    The final status of a downlink message, chosen once.

    @ivar reason: a code of docs/downlink.md; empty: the status says it all
    @ivar at: Unix ms, when it was chosen
    """

    status: FinalStatus
    reason: str
    at: int


class DownlinkMessage(NamedTuple):
    """
    A message for a box, with what its sender left out filled in.

    @ivar id: at most 128 bytes of UTF-8, unique for the box
    @ivar expiresAt: Unix ms; never 0
    @ivar queuedAt: Unix ms
    @ivar rejected: why it can only be put with the final status C{rejected}; empty: it may be sent
    """

    box: BoxKey
    id: str
    channel: str
    payload: bytes
    correlationId: str
    expiresAt: int
    noQueue: bool
    wantAck: bool
    queuedAt: int
    rejected: str = ""


class MailboxEntry(NamedTuple):
    """
    A message in its box's mailbox, and how far it has come.

    @ivar sequence: grows by one with each message of the box, from 1
    @ivar attempts: how often it was taken to be sent
    @ivar sentAt: Unix ms, of the latest attempt; 0: none
    @ivar deliveredAt: Unix ms; 0: the box has not acked it
    @ivar final: L{None} until it is chosen
    """

    message: DownlinkMessage
    sequence: int
    attempts: int = 0
    sentAt: int = 0
    deliveredAt: int = 0
    final: Final | None = None


class MailboxLimits(NamedTuple):
    """
    What a mailbox holds at most.

    @ivar messages: how many
    @ivar size: bytes of their payloads
    """

    messages: int
    size: int


class Put(NamedTuple):
    """
    What became of a message that was put.

    @ivar entry: as it stands in the mailbox; L{None}: it was there before and is finished
    @ivar isNew: it was not there before
    @ivar listener: the incarnation that holds the link of the box, which is subscribed to its downlink; empty: none
    """

    entry: MailboxEntry | None
    isNew: bool
    listener: str


class Take(NamedTuple):
    """
    An owner's wish for what stands in a box's mailbox.

    @ivar after: the last sequence that this link was given; 0: nothing yet
    @ivar limit: how many at most
    """

    box: BoxKey
    linkEpoch: int
    after: int
    limit: int


class Progress(NamedTuple):
    """
    What was heard of a message.

    @ivar final: L{None}: the box has it, which is final unless its application is to answer
    @ivar attempts: it is only true as long as the message was attempted so often; 0: always
    """

    box: BoxKey
    id: str
    at: int
    final: Final | None = None
    attempts: int = 0
