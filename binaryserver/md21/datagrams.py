"""
Datagrams of MD21 in their sequence, sans-IO: one side of one link's UDP.

Each side numbers the datagrams that carry a PDU. The receiver acks the numbers it has, alone or beside a PDU of its
own, and gives the PDUs out in the order of their numbers, tracks too. It has to: a
L{TrackingAck<binaryserver.md21.values.TrackingAck>} names no block, so that a block that was lost on the way would be
taken for acked because a later one was. Whoever sends repeats a datagram until it is acked, at growing intervals, and
not for ever to a peer that is silent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from math import inf
from typing import Final

from binaryserver.md21 import codec
from binaryserver.md21.values import Transport

WINDOW: Final = 64
"""Numbers that the receiver keeps, from the first one on that it has not given out. The sender stays inside."""

MAX_HELD: Final = 131_072
"""Bytes of PDUs that wait in one sequence for an earlier one; the earlier one may come on top."""

MAX_ACKS: Final = 31
"""Numbers that one datagram acks."""

MAX_OWED: Final = 4 * MAX_ACKS
"""Acks that wait to be sent. One that is forgotten is owed again when the peer repeats its datagram."""

ACK_DELAY: Final = 0.1
"""s that acks wait for each other, and for a PDU to go with: most blocks are committed by then."""

MAX_DATAGRAM: Final = 1_200
"""Bytes of a datagram that is sent: every path passes it on in one piece (IPv6 promises 1,280)."""

MAX_SENT: Final = 1_120
"""Bytes of a PDU that is sent in one, which leaves room for some acks."""

MAX_QUEUED: Final = 512
"""PDUs that are sent and not acked, or wait to be sent."""

MAX_QUEUED_BYTES: Final = 65_536
"""Bytes of them."""

FIRST_WAIT: Final = 1.0
"""s until a datagram is sent for the second time (RFC 8085 3.1.1); doubled from time to time."""

LONGEST_WAIT: Final = 16.0
"""s: the most that it becomes."""

TRIES: Final = 7
"""Times that a datagram is sent to a peer that is silent meanwhile."""

DOUBT: Final = 3
"""Times that it was sent when it becomes doubtful whether the peer can be reached."""

_OVERHEAD: Final = 40
"""Bytes of a datagram beside its PDU and its acks."""

_LAST: Final = 0xFFFFFFFF


class Arrival(Enum):
    """
    What a datagram's number says of it.
    """

    fresh = "It may be taken."
    duplicate = "It was taken before, and is acked again."
    tooFar = "No peer that keeps to the window sends it."
    tooMuch = "There is no room to keep it until those before it are here."


@dataclass(slots=True)
class _Outgoing:
    """
    @ivar tries: times that it was sent
    @ivar due: when it is to be sent again; s
    """

    pdu: bytes
    tries: int = 0
    due: float = 0.0


class DatagramSequence:
    """
    Both ways of one token, at one of its ends. Times are in s, of whatever clock the caller has.

    @ivar heldBytes: bytes of PDUs that were taken and not given out
    @ivar isLost: something was sent as often as it may be, and the peer was silent: it rests until L{heard}
    @ivar isStarved: there is something to send, and the credit does not allow it
    @ivar resent: datagrams that were sent again
    """

    __slots__ = (
        "_ackDue",
        "_held",
        "_highest",
        "_next",
        "_nextOut",
        "_out",
        "_outBytes",
        "_owed",
        "_token",
        "_unacked",
        "heldBytes",
        "isLost",
        "isStarved",
        "resent",
    )

    def __init__(self, token: bytes) -> None:
        """
        @param token: 32 bytes, which every datagram shows
        """
        self._token = token
        self._next = 1
        self._highest = 0
        self._held: dict[int, bytes] = {}
        self._unacked: set[int] = set()
        self.heldBytes = 0
        self._owed: dict[int, None] = {}
        self._ackDue = 0.0
        self._nextOut = 1
        self._out: dict[int, _Outgoing] = {}
        self._outBytes = 0
        self.isLost = False
        self.isStarved = False
        self.resent = 0

    # In.

    def acked(self, numbers: Iterable[int]) -> None:
        """
        The peer has these.
        """
        for number in numbers:
            one = self._out.get(number)
            if one is not None and one.tries:
                del self._out[number]
                self._outBytes -= len(one.pdu)

    def judge(self, number: int, size: int, room: int, now: float, isPaused: bool = False) -> Arrival:
        """
        Whether to take a datagram that carries a PDU. One that was taken before is noted to be acked again, if it was.

        @param number: its sequence number, at least 1
        @param size: of its PDU, bytes
        @param room: bytes that may be held beside those that are held, beyond this sequence's own limit
        @param isPaused: nothing is given out for now
        """
        if number < self._next or number in self._held:
            if number not in self._unacked:
                self._owe(number, now)
            return Arrival.duplicate
        if number >= self._next + WINDOW:
            return Arrival.tooFar
        # The one that those held wait for is always taken, or they would wait for ever.
        if (isPaused or number != self._next) and size > min(room, MAX_HELD - self.heldBytes):
            return Arrival.tooMuch
        return Arrival.fresh

    def take(self, number: int, pdu: bytes, now: float, isPaused: bool = False) -> bool:
        """
        Take a datagram that was judged fresh.

        @param isPaused: it is not acked before it is given out
        @return: whether its number is the highest so far
        """
        self._held[number] = pdu
        self.heldBytes += len(pdu)
        if isPaused:
            self._unacked.add(number)
        else:
            self._owe(number, now)
        if number < self._highest:
            return False
        self._highest = number
        return True

    def give(self, now: float = 0.0) -> bytes | None:
        """
        The next PDU, once each; L{None}: it is not here yet.
        """
        pdu = self._held.pop(self._next, None)
        if pdu is not None:
            if self._next in self._unacked:
                self._unacked.discard(self._next)
                self._owe(self._next, now)
            self._next += 1
            self.heldBytes -= len(pdu)
        return pdu

    def _owe(self, number: int, now: float) -> None:
        owed = self._owed
        if not owed:
            self._ackDue = now + ACK_DELAY
        elif len(owed) >= MAX_OWED and number not in owed:
            del owed[next(iter(owed))]
        owed[number] = None

    # Out.

    def mayQueue(self, size: int) -> bool:
        """
        Whether a PDU of so many bytes can be queued.
        """
        return (
            size <= MAX_SENT
            and len(self._out) < MAX_QUEUED
            and self._outBytes + size <= MAX_QUEUED_BYTES
            and self._nextOut <= _LAST
        )

    @property
    def isDoubtful(self) -> bool:
        """
        The oldest datagram was sent several times and is not acked: the peer may not be reached this way.
        """
        return bool(self._out) and next(iter(self._out.values())).tries >= DOUBT

    @property
    def isCrowded(self) -> bool:
        """
        The room that is left is for what must be sent.
        """
        return len(self._out) > MAX_QUEUED // 2 or self._outBytes > MAX_QUEUED_BYTES // 2

    def queue(self, pdu: bytes) -> None:
        """
        Send a PDU with the next L{output}, or as soon as there is room in the window.

        @param pdu: one that L{mayQueue}
        """
        self._out[self._nextOut] = _Outgoing(pdu)
        self._nextOut += 1
        self._outBytes += len(pdu)

    def output(self, now: float, credit: int) -> list[bytes]:
        """
        The datagrams that are to be sent now.

        @param credit: the most bytes that they may have together
        """
        sent: list[bytes] = []
        self.isStarved = False
        for number, one in self._sendable():
            if one.due > now:
                continue
            if one.tries >= TRIES:
                one.due, self.isLost = inf, True
                continue
            credit = self._emit(sent, number, one.pdu, credit)
            if self.isStarved:
                return sent
            self.resent += one.tries > 0
            one.due = now + min(FIRST_WAIT * (1 << one.tries), LONGEST_WAIT)
            one.tries += 1
        while self._owed and not self.isStarved and (self._ackDue <= now or len(self._owed) >= MAX_ACKS):
            credit = self._emit(sent, 0, None, credit)
        return sent

    def heard(self, now: float) -> None:
        """
        The peer is there: what was sent in vain as often as it may be is sent again.
        """
        if self.isLost:
            self.isLost = False
            for one in self._out.values():
                if one.due == inf:
                    one.due, one.tries = now, 1

    def _sendable(self) -> list[tuple[int, _Outgoing]]:
        """
        Those of the outgoing ones that are inside the peer's window.
        """
        if not self._out:
            return []
        end = next(iter(self._out)) + WINDOW
        return [item for item in islice(self._out.items(), WINDOW) if item[0] < end]

    def _emit(self, sent: list[bytes], number: int, pdu: bytes | None, credit: int) -> int:
        room = MAX_ACKS if pdu is None else min(MAX_ACKS, (MAX_DATAGRAM - len(pdu) - _OVERHEAD) // 4)
        acks = tuple(islice(self._owed, room))
        datagram = codec.encode(Transport(self._token, number, acks, pdu))
        if len(datagram) > credit:
            self.isStarved = True
            return credit
        for ack in acks:
            del self._owed[ack]
        sent.append(datagram)
        return credit - len(datagram)

    def deadline(self) -> float | None:
        """
        When L{output} will have something to send; L{None}: not before something comes or is queued.
        """
        due = min((one.due for _, one in self._sendable()), default=inf)
        if self._owed:
            due = min(due, self._ackDue)
        return None if due == inf else due
