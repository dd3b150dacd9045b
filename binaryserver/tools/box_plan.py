"""
How simulated boxes are to behave, the states that they go through, and what a box needs of what is round it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

from binaryserver.errors import LocalError
from binaryserver.md21.values import WantAck
from binaryserver.tools.box_inbox import AckChoice, Heard
from binaryserver.tools.box_payload import PayloadForm

if TYPE_CHECKING:
    from binaryserver.tools.box_client import Box


class Resend(Enum):
    """
    What a box does after a reconnect with batches that have no ack.
    """

    SAME = "same"
    """
    It sends them again as they were. On MD30: in its MQTT session, with DUP, but for those that the index covers.
    """
    NEW = "new"
    """
    The tracks go back into the store and are cut into new batches. On MD30: in clean sessions. On MD21: the first block
    of a link is shorter by chance, so that all boundaries move.
    """


@dataclass(frozen=True, slots=True)
class Md21Plan:
    """
    What boxes that speak MD21 do beside.

    @ivar wantAck: what their blocks ask for, unless the gateway has them ask for something else
    @ivar tls: ask for TLS, and do without a link where there is none
    @ivar udp: bring tracks by UDP where the gateway offers it
    @ivar loseDatagrams: 0 to 1, the share of datagrams that get lost, either way
    """

    wantAck: WantAck = WantAck.ALL_30
    tls: bool = False
    udp: bool = False
    loseDatagrams: float = 0.0


@dataclass(frozen=True, slots=True)
class BoxPlan:
    """
    How the boxes of a fleet behave.

    Of the two protocols, C{qos}, C{form} and C{indexFromGateway} are of MD30 only.

    @ivar account: the user name; L{None}: none is given
    @ivar password: the box's secret
    @ivar batch: tracks a PUBLISH, or a block
    @ivar rate: tracks a second; L{None}: as fast as acks allow
    @ivar inflight: the most PUBLISHes (at QoS 1 and 2) or blocks without an ack
    @ivar keepAlive: s; 0: none
    @ivar indexFromGateway: read the index on every connect, and drop what it covers
    @ivar cutEvery: s, the mean after which a box cuts its link; L{None}: never
    @ivar loseAcks: 0 to 1, the share of acks that a box takes for lost
    @ivar loseEvery: instead: each ack of so many is lost; 0: none
    @ivar ackTimeout: s after which a box that has no ack ends its link and connects anew; L{None}: never
    @ivar resendAfter: s after which what has no ack is sent again on the same link; L{None}: never. Not along with
        C{ackTimeout}.
    @ivar reconnectDelay: s between the loss of a link and the next
    @ivar ack: what the application answers to messages; L{None}: the box does not ask for any
    @ivar cutOnMessage: 0 to 1, the share of messages at which a box cuts its link, having them, before it acks them
    @ivar stay: s from the start for which the boxes stay at least, infinity: until they are told to leave
    @ivar md21: the boxes speak MD21; L{None}: MD30
    """

    account: str | None = None
    password: bytes | None = None
    batch: int = 1
    rate: float | None = None
    inflight: int = 20
    qos: int = 1
    form: PayloadForm = PayloadForm.PROTO
    keepAlive: int = 60
    indexFromGateway: bool = True
    cutEvery: float | None = None
    loseAcks: float = 0.0
    loseEvery: int = 0
    resend: Resend = Resend.SAME
    ackTimeout: float | None = None
    resendAfter: float | None = None
    reconnectDelay: float = 1.0
    ack: AckChoice | None = AckChoice.OK
    cutOnMessage: float = 0.0
    stay: float = 0.0
    md21: Md21Plan | None = None


class BoxState(Enum):
    """
    What a box waits for.
    """

    waiting = "the time of its next connect"
    connecting = "the link"
    awaitingConnack = "the answer to its CONNECT"
    awaitingSuback = "the answer to its SUBSCRIBE"
    awaitingIndex = "the index, or the answer to a PINGREQ sent behind the SUBACK: no index then"
    awaitingHeaderack = "the answer to its header"
    awaitingTls = "the answer to its header that asks for TLS"
    awaitingSecureHeaderack = "TLS, and the answer to its header in it"
    awaitingUdp = "the place that its datagrams go to"
    open = "acks, or the time to leave"
    leaving = "the end of the link, all being done"
    done = "nothing: all is acked, and it need not stay"
    refused = "nothing: the gateway would not have it"
    stopped = "nothing: it was stopped"


_LINK_ENDS: Final = frozenset({BoxState.waiting, BoxState.refused, BoxState.stopped})
NEXT: Final = {
    BoxState.waiting: frozenset({BoxState.connecting, BoxState.done, BoxState.stopped}),
    BoxState.connecting: _LINK_ENDS | {BoxState.awaitingConnack, BoxState.awaitingHeaderack, BoxState.awaitingTls},
    BoxState.awaitingConnack: _LINK_ENDS | {BoxState.awaitingSuback, BoxState.open},
    BoxState.awaitingSuback: _LINK_ENDS | {BoxState.awaitingIndex, BoxState.open},
    BoxState.awaitingIndex: _LINK_ENDS | {BoxState.open},
    BoxState.awaitingHeaderack: _LINK_ENDS | {BoxState.awaitingUdp, BoxState.open},
    BoxState.awaitingTls: _LINK_ENDS | {BoxState.awaitingSecureHeaderack},
    BoxState.awaitingSecureHeaderack: _LINK_ENDS | {BoxState.awaitingUdp, BoxState.open},
    BoxState.awaitingUdp: _LINK_ENDS | {BoxState.open},
    BoxState.open: _LINK_ENDS | {BoxState.leaving},
    BoxState.leaving: frozenset({BoxState.done, BoxState.stopped}),
    BoxState.done: frozenset({BoxState.stopped}),
    BoxState.refused: frozenset({BoxState.stopped}),
    BoxState.stopped: frozenset(),
}
"""Which states may follow each."""


class WrongState(LocalError):
    """
    A box was told something that cannot happen in its state: a bug.
    """


class Link(Protocol):
    """
    What a box needs of its link.
    """

    paused: bool

    def send(self, data: bytes) -> None:
        """
        Write whole packets.
        """

    def startTls(self) -> None:
        """
        Go on in TLS, and have the gateway's certificate checked.
        """

    def cut(self) -> None:
        """
        End it at once, as a bad network does.
        """

    def leave(self) -> None:
        """
        End it once all is written.
        """


class DatagramLink(Protocol):
    """
    What a box needs of its way for datagrams.
    """

    def send(self, data: bytes) -> None:
        """
        Send one, which may get lost.
        """

    def close(self) -> None:
        """
        Send and take no more.
        """


class Outgoing(Protocol):
    """
    The way of a box's tracks to their acks, as far as it is the same whatever the box speaks. Times (C{now}) are
    seconds of the fleet's clock.
    """

    @property
    def empty(self) -> bool:
        """
        Nothing is to be sent, and nothing waits for an ack.
        """

    @property
    def recorded(self) -> bool:
        """
        The tracks of this run are in the store.
        """

    def record(self, now: float, wallOffset: float) -> None:
        """
        The tracks of this run come into being.

        @param wallOffset: s, what C{now} lacks to Unix time
        """

    def recordedAt(self) -> float:
        """
        @return: s of the clock, when the next batch will have all its tracks at a given rate; else infinity
        """

    def oldestSent(self, now: float) -> float:
        """
        @return: s of the clock, when that which has waited longest for an ack was sent last; C{now} if nothing waits
        """


class Owner(Protocol):
    """
    What a box needs of its fleet.
    """

    def connectBox(self, box: Box) -> None:
        """
        Give it a link: calls C{linkUp} or C{linkFailed} later.
        """

    def openDatagrams(self, box: Box, host: str, port: int) -> None:
        """
        Give it a way for datagrams: calls C{datagramsUp} or C{datagramsFailed}, now or later.

        @param host: an IP address as text, or a host name
        """

    def boxEnded(self, box: Box) -> None:
        """
        It will do no more.
        """

    def keepBox(self, box: Box) -> None:
        """
        Its store has changed for good: time to save it.
        """

    def messageHeard(self, box: Box, heard: Heard) -> None:
        """
        It got a message that is no repeat.
        """

    def complain(self, box: Box, text: str) -> None:
        """
        Something went wrong that a person should hear of.
        """
