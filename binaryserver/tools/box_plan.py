"""
How simulated boxes are to behave, the states that they go through, and what a box needs of what is round it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

from binaryserver.errors import LocalError
from binaryserver.tools.box_inbox import AckChoice, Heard
from binaryserver.tools.box_payload import PayloadForm

if TYPE_CHECKING:
    from binaryserver.tools.box_client import Box


class Resend(Enum):
    """
    What a box does after a reconnect with PUBLISHes that have no ack.
    """

    SAME = "same"
    """It keeps its MQTT session and sends them again as they were, with DUP, but for those that the index covers."""
    NEW = "new"
    """Its sessions are clean: the tracks go back into the store and are cut into new PUBLISHes."""


@dataclass(frozen=True, slots=True)
class BoxPlan:
    """
    How the boxes of a fleet behave.

    @ivar account: the user name; L{None}: none is given
    @ivar password: the box's secret
    @ivar batch: tracks a PUBLISH
    @ivar rate: tracks a second; L{None}: as fast as acks allow
    @ivar inflight: the most PUBLISHes without an ack (QoS 1 and 2)
    @ivar keepAlive: s; 0: none
    @ivar indexFromGateway: read the index on every connect, and drop what it covers
    @ivar cutEvery: s, the mean after which a box cuts its link; L{None}: never
    @ivar loseAcks: 0 to 1, the share of acks that a box takes for lost
    @ivar ackTimeout: s after which a box that has no ack ends its link and connects anew; L{None}: never
    @ivar resendAfter: s after which what has no ack is sent again on the same link; L{None}: never. Not along with
        C{ackTimeout}.
    @ivar reconnectDelay: s between the loss of a link and the next
    @ivar ack: what the application answers to messages; L{None}: the box does not ask for any
    @ivar cutOnMessage: 0 to 1, the share of messages at which a box cuts its link, having them, before it acks them
    @ivar stay: s from the start for which the boxes stay at least, infinity: until they are told to leave
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
    resend: Resend = Resend.SAME
    ackTimeout: float | None = None
    resendAfter: float | None = None
    reconnectDelay: float = 1.0
    ack: AckChoice | None = AckChoice.OK
    cutOnMessage: float = 0.0
    stay: float = 0.0


class BoxState(Enum):
    """
    What a box waits for.
    """

    waiting = "the time of its next connect"
    connecting = "the link"
    awaitingConnack = "the answer to its CONNECT"
    awaitingSuback = "the answer to its SUBSCRIBE"
    awaitingIndex = "the index, or the answer to a PINGREQ sent behind the SUBACK: no index then"
    open = "acks, or the time to leave"
    leaving = "the end of the link, all being done"
    done = "nothing: all is acked, and it need not stay"
    refused = "nothing: the gateway would not have it"
    stopped = "nothing: it was stopped"


_LINK_ENDS: Final = frozenset({BoxState.waiting, BoxState.refused, BoxState.stopped})
NEXT: Final = {
    BoxState.waiting: frozenset({BoxState.connecting, BoxState.done, BoxState.stopped}),
    BoxState.connecting: _LINK_ENDS | {BoxState.awaitingConnack},
    BoxState.awaitingConnack: _LINK_ENDS | {BoxState.awaitingSuback, BoxState.open},
    BoxState.awaitingSuback: _LINK_ENDS | {BoxState.awaitingIndex, BoxState.open},
    BoxState.awaitingIndex: _LINK_ENDS | {BoxState.open},
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

    def cut(self) -> None:
        """
        End it at once, as a bad network does.
        """

    def leave(self) -> None:
        """
        End it once all is written.
        """


class Owner(Protocol):
    """
    What a box needs of its fleet.
    """

    def connectBox(self, box: Box) -> None:
        """
        Give it a link: calls C{linkUp} or C{linkFailed} later.
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
