"""
The datagrams of one MD21 link: its token, its box's address, and what may come and go (docs/md21.md).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol, TypeAlias

from twisted.logger import Logger

from binaryserver.errors import MalformedPacket
from binaryserver.md21 import codec
from binaryserver.md21.datagrams import Arrival, DatagramSequence
from binaryserver.md21.values import Message, MessageAck, Ping, TrackingData, Transport, UdpOffer

Address: TypeAlias = tuple[str, int]
"""IP address and port."""

UplinkPdu: TypeAlias = TrackingData | Message | MessageAck | Ping
"""What a box may send in a datagram; all else belongs to the link on TCP."""

_WELCOME: Final = (TrackingData, Message, MessageAck, Ping)

AMPLIFICATION: Final = 3
"""Bytes that may be sent to an address for each byte that came from it (as RFC 9000 8.1 has it)."""

MAX_CREDIT: Final = 65_536
"""The most bytes that may be sent to an address before it sends again."""

RATE: Final = 1000.0
"""Datagrams with its token that are looked at, a second."""

BURST: Final = 1000.0
"""Those of them that may come at once: more than the window of a sequence, since a box may send all of it again."""

HEARD_WITHIN: Final = 30.0
"""s after which the box's address is taken for stale: NATs forget a UDP flow that is silent for as short as that."""

MAX_HELD_IN_ALL: Final = 16_777_216
"""Bytes of PDUs of all ways that wait for an earlier one."""


class DatagramLink(Protocol):
    """
    What a way needs of its link.
    """

    @property
    def isSecure(self) -> bool:
        """
        TLS protects it.
        """

    @property
    def mayTakeDatagram(self) -> bool:
        """
        It is open, and neither paused nor ending. When that is so again it calls L{UdpWay.resume}: a little of what
        comes meanwhile is kept.
        """

    def datagramReceived(self, pdu: UplinkPdu, octets: bytes) -> None:
        """
        Handle what the box sent in a datagram: each PDU once, in the box's order.

        @param octets: the PDU as it came
        """

    def abort(self) -> None:
        """
        It failed in an unforeseen way.
        """


@dataclass(slots=True)
class UdpCounters:
    """
    Datagrams since the process started.

    @ivar taken: PDUs that were taken from them
    @ivar foreign: without the token of an open way, or none of ours at all
    @ivar malformed: with a token, and not to be read
    @ivar unwelcome: with a PDU that does not belong in a datagram
    @ivar duplicates: taken before
    @ivar early: too far ahead of the first one that is missing, or without room until that comes
    @ivar paused: without room until a paused link goes on
    @ivar excess: beyond the rate of one token
    @ivar sent: all that were sent
    @ivar resent: those of them that were sent before
    @ivar unsent: that the socket did not take
    @ivar moved: changes of a box's address
    @ivar lost: ways closed because the box let too many of its acks wait to be acked
    """

    taken: int = 0
    foreign: int = 0
    malformed: int = 0
    unwelcome: int = 0
    duplicates: int = 0
    early: int = 0
    paused: int = 0
    excess: int = 0
    sent: int = 0
    resent: int = 0
    unsent: int = 0
    moved: int = 0
    lost: int = 0

    def asDict(self) -> dict[str, int]:
        """
        By name.
        """
        return asdict(self)


class WaySide(Protocol):
    """
    What a way needs of the socket's side.

    @ivar clock: the reactor
    @ivar heldBytes: bytes of PDUs of all ways that wait for an earlier one
    """

    clock: Any
    counters: UdpCounters
    heldBytes: int

    def write(self, datagram: bytes, address: Address) -> None:
        """
        Send.
        """

    def schedule(self, way: UdpWay, due: float) -> None:
        """
        Call C{way.flush} then, or earlier.

        @param due: s
        """

    def forget(self, way: UdpWay) -> None:
        """
        Its token is void.
        """


class UdpWay:
    """
    The datagrams of one link.

    @ivar offer: what its box was told
    @ivar isOpen: the token is valid
    @ivar due: when the side looks at it next, s; the side's own
    """

    __slots__ = (
        "_address",
        "_allowance",
        "_cameAt",
        "_credit",
        "_heardAt",
        "_isGiving",
        "_link",
        "_sequence",
        "_side",
        "due",
        "isOpen",
        "offer",
    )

    log = Logger()

    def __init__(self, side: WaySide, link: DatagramLink, offer: UdpOffer) -> None:
        self._side = side
        self._link = link
        self.offer = offer
        self._sequence = DatagramSequence(offer.token)
        self.isOpen = True
        self.due: float | None = None
        self._address: Address | None = None
        self._credit = 0
        self._allowance = BURST
        self._cameAt = 0.0
        self._heardAt = float("-inf")
        self._isGiving = False

    # What the link calls.

    @property
    def isReachable(self) -> bool:
        """
        What is sent now has good prospects: the box was heard a short while ago, and acks what it is sent.
        """
        return (
            self.isOpen and self._side.clock.seconds() - self._heardAt <= HEARD_WITHIN and not self._sequence.isDoubtful
        )

    def send(self, pdu: bytes) -> bool:
        """
        Send by datagram what may as well go by TCP.

        @return: whether it is sent, again and again until the box acks it; C{False}: the box is not reachable, there is
            too much for it already, or this is too large
        """
        sequence = self._sequence
        if not self.isReachable or sequence.isCrowded or not sequence.mayQueue(len(pdu)):
            return False
        sequence.queue(pdu)
        self.flush(self._side.clock.seconds())
        return True

    def answer(self, pdu: bytes) -> None:
        """
        Send what must go the way that the question came: the ack of a block, as each way counts its own. If it cannot
        be sent, the box would wait for it for ever; so the way is closed.
        """
        if not self.isOpen:
            return
        if self._sequence.mayQueue(len(pdu)):
            self._sequence.queue(pdu)
            self.flush(self._side.clock.seconds())
        else:
            self._lose()

    def resume(self) -> None:
        """
        The link may take datagrams again.
        """
        now = self._side.clock.seconds()
        try:
            self._give(now)
            self.flush(now)
        except Exception:
            # It may be another link's data that made room for this one: that one must not suffer for it.
            self.fail()

    def close(self) -> None:
        """
        The token is void.
        """
        if self.isOpen:
            self.isOpen = False
            self._side.forget(self)
            self._side.heldBytes -= self._sequence.heldBytes

    # In.

    def received(self, data: bytes, address: Address) -> None:
        """
        A datagram with the token.
        """
        side, sequence = self._side, self._sequence
        now = side.clock.seconds()
        if not self._mayCome(now):
            side.counters.excess += 1
            return
        try:
            datagram = codec.decode(data)
        except MalformedPacket:
            side.counters.malformed += 1
            return
        assert isinstance(datagram, Transport)
        sequence.acked(datagram.acks)
        octets, fresh = datagram.pdu, None
        if octets is not None:
            isPaused = not self._link.mayTakeDatagram
            room = MAX_HELD_IN_ALL - side.heldBytes
            arrival = sequence.judge(datagram.sequence, len(octets), room, now, isPaused)
            if arrival is Arrival.fresh:
                fresh = self._read(octets)
                if fresh is None:
                    return
                self._take(datagram.sequence, octets, address, now, isPaused)
            elif arrival is Arrival.duplicate:
                side.counters.duplicates += 1
            else:
                if isPaused:
                    side.counters.paused += 1
                else:
                    side.counters.early += 1
                return
        if address == self._address:
            self._heardAt = now
            sequence.heard(now)
            self._credit = min(self._credit + AMPLIFICATION * len(data), MAX_CREDIT)
        if fresh is not None:
            self._give(now, fresh, octets)
        self.flush(now)

    def _mayCome(self, now: float) -> bool:
        self._allowance = min(BURST, self._allowance + (now - self._cameAt) * RATE)
        self._cameAt = now
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True

    def _read(self, octets: bytes) -> UplinkPdu | None:
        """
        @return: L{None}: it is not taken, and not acked
        """
        counters = self._side.counters
        try:
            pdu = codec.decode(octets)
        except MalformedPacket:
            counters.malformed += 1
            return None
        if not isinstance(pdu, _WELCOME):
            counters.unwelcome += 1
            return None
        return pdu

    def _take(self, number: int, octets: bytes, address: Address, now: float, isPaused: bool) -> None:
        side = self._side
        side.counters.taken += 1
        side.heldBytes += len(octets)
        if self._sequence.take(number, octets, now, isPaused) and address != self._address:
            side.counters.moved += self._address is not None
            self._address, self._credit = address, 0

    def _give(self, now: float, pdu: UplinkPdu | None = None, octets: bytes | None = None) -> None:
        """
        Give the link what is next, as long as it takes it.

        @param pdu: the value of C{octets}, which need not be read again then
        """
        if self._isGiving:
            return
        link, sequence = self._link, self._sequence
        self._isGiving = True
        try:
            while self.isOpen and link.mayTakeDatagram and (given := sequence.give(now)) is not None:
                self._side.heldBytes -= len(given)
                # It was read before it was taken.
                value: Any = pdu if given is octets else codec.decode(given)
                link.datagramReceived(value, given)
        finally:
            self._isGiving = False

    # Out.

    def flush(self, now: float) -> None:
        """
        Send what is due.
        """
        side, sequence, address = self._side, self._sequence, self._address
        if address is None or not self.isOpen:
            return
        resent = sequence.resent
        for datagram in sequence.output(now, self._credit):
            self._credit -= len(datagram)
            side.write(datagram, address)
        side.counters.resent += sequence.resent - resent
        due = None if sequence.isStarved else sequence.deadline()
        if due is not None:
            side.schedule(self, due)

    def fail(self) -> None:
        """
        Something went wrong that nobody thought of: called while it is handled. It must not cost other links anything.
        """
        self.log.failure("a link's datagrams failed in an unforeseen way")
        self.close()
        self._link.abort()

    def _lose(self) -> None:
        where = self._address[0] if self._address else "nowhere"
        self.log.info("{address}: a box acks too little of what it is sent: it has TCP only now", address=where)
        self._side.counters.lost += 1
        self.close()
