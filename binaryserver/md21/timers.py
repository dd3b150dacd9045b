"""
What a box may be late with, and when: the times of one link.

Sans-IO. Nobody is late while the link is not read: its clock stands still then.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

from binaryserver.md21.values import Reason

FILE_TIMEOUT: Final = 600.0
"""s from its start, within which a file is whole, however small its parts: it takes up memory until then."""


class Timeouts(NamedTuple):
    """
    How long things may take, s.

    @ivar header: to the end of the header, from the link's beginning or from the end of the TLS handshake
    @ivar handshake: of TLS
    @ivar packet: from a PDU's first byte to its last
    @ivar activity: without a whole PDU, of a box that does not say how often it pings; half of it brings a ping of ours
    @ivar ack: until a message or the base values are acked
    """

    header: float = 10.0
    handshake: float = 10.0
    packet: float = 30.0
    activity: float = 300.0
    ack: float = 60.0


class Due(Enum):
    """
    What time brings.

    @ivar reason: of the end; L{None}: the link goes on
    """

    header = ("no whole header in time", Reason.NETWORK_ACTIVITY_TIMEOUT)
    handshake = ("no whole TLS handshake in time", Reason.NETWORK_ACTIVITY_TIMEOUT)
    packet = ("a PDU was started and not ended in time", Reason.NETWORK_ACTIVITY_TIMEOUT)
    silence = ("no PDU in time", Reason.NETWORK_ACTIVITY_TIMEOUT)
    message = ("a message was not acked in time", Reason.MESSAGE_ACK_TIMEOUT)
    baseValues = ("the base values were not acked in time", Reason.BASEVALUE_ACK_TIMEOUT)
    ping = ("the box is to show that it is there", None)
    file = ("a file was not whole in time", None)

    def __init__(self, text: str, reason: Reason | None) -> None:
        self.text = text
        self.reason = reason


class Timers:
    """
    The times of one link. All that are given are s of the owner's clock.

    @ivar timeouts: how long things may take
    @ivar seenAt: when anything came last
    @ivar hasPinged: the silence of now was answered with a ping
    """

    __slots__ = (
        "_baseValuesAt",
        "_fileAt",
        "_heardAt",
        "_lost",
        "_pingAfter",
        "_silence",
        "_startedAt",
        "_suspendedAt",
        "_unacked",
        "hasPinged",
        "seenAt",
        "timeouts",
    )

    def __init__(self, timeouts: Timeouts, now: float) -> None:
        self.timeouts = timeouts
        self.seenAt = now
        self.hasPinged = False
        # By how much this clock is behind the owner's: all that time nothing was read.
        self._lost = 0.0
        self._suspendedAt: float | None = None
        self._heardAt = now
        self._startedAt: float | None = None
        self._silence = timeouts.activity
        self._pingAfter: float | None = timeouts.activity / 2
        self._unacked: dict[int, float] = {}
        self._baseValuesAt: float | None = None
        self._fileAt: float | None = None

    # What happens.

    def heard(self, now: float) -> None:
        """
        A whole PDU came, or what is awaited is another thing from now on.
        """
        self._heardAt = now - self._lost
        self.hasPinged = False

    def started(self, isPartial: bool, now: float) -> None:
        """
        A PDU has, or none has, started to come and is not whole.
        """
        if not isPartial:
            self._startedAt = None
        elif self._startedAt is None:
            self._startedAt = now - self._lost

    def pings(self, interval: int) -> None:
        """
        The box says that it pings by itself, after so many seconds; 0: it does not.
        """
        if interval:
            self._silence, self._pingAfter = interval * 1.5, None
        else:
            self._silence, self._pingAfter = self.timeouts.activity, self.timeouts.activity / 2

    def sentBaseValues(self, now: float) -> None:
        """
        Ours were sent.
        """
        self._baseValuesAt = now - self._lost

    def ackedBaseValues(self) -> None:
        """
        The box has them.
        """
        self._baseValuesAt = None

    def sentMessage(self, temporaryId: int, now: float) -> None:
        """
        A message was sent that the box is to ack.
        """
        self._unacked[temporaryId] = now - self._lost

    def ackedMessage(self, temporaryId: int) -> bool:
        """
        It did.

        @return: whether that was awaited
        """
        return self._unacked.pop(temporaryId, None) is not None

    def file(self, isUnderWay: bool, now: float) -> None:
        """
        A file of the box has begun, or has ended.
        """
        self._fileAt = now - self._lost if isUnderWay else None

    def suspend(self) -> None:
        """
        Nothing is read from now on.
        """
        if self._suspendedAt is None:
            # As of the last read: for the box, rather a little more time than less.
            self._suspendedAt = self.seenAt

    def resume(self, now: float) -> None:
        """
        The box is read again: each timer has as much left as when it was suspended.
        """
        if self._suspendedAt is not None:
            self._lost += now - self._suspendedAt
            self._suspendedAt = None
            self.seenAt = now

    # What is due.

    def dueAfter(self, what: Due, seconds: float) -> tuple[float, Due] | None:
        """
        When something is due that counts from the last that was heard; L{None}: not while nothing is read.
        """
        return None if self._suspendedAt is not None else (self._heardAt + self._lost + seconds, what)

    def due(self) -> tuple[float, Due] | None:
        """
        What comes first on an open link, and when; L{None}: nothing while nothing is read.
        """
        if self._suspendedAt is not None:
            return None
        timeouts = self.timeouts
        due = [(self._heardAt + self._silence, Due.silence)]
        if self._pingAfter is not None and not self.hasPinged:
            due.append((self._heardAt + self._pingAfter, Due.ping))
        if self._startedAt is not None:
            due.append((self._startedAt + timeouts.packet, Due.packet))
        if self._unacked:
            due.append((next(iter(self._unacked.values())) + timeouts.ack, Due.message))
        if self._baseValuesAt is not None:
            due.append((self._baseValuesAt + timeouts.ack, Due.baseValues))
        if self._fileAt is not None:
            due.append((self._fileAt + FILE_TIMEOUT, Due.file))
        when, what = min(due, key=_when)
        return when + self._lost, what


def _when(due: tuple[float, Due]) -> float:
    return due[0]
