"""
MD21 boxes for the gateway of L{tests.harness}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from binaryserver.md21 import values
from binaryserver.md21.codec import decode, encode
from binaryserver.md21.framing import Framing, frame
from binaryserver.md21.protocol import Md21, Md21Link
from binaryserver.md21.values import HeaderStatus, Track, WantAck
from tests.downlink.world import DownlinkWorld
from tests.harness import ASSET, NOW_MS, LinkTransport

START = NOW_MS // 1000 * 1000 - 3_600_000


class Md21World(DownlinkWorld):
    """
    One gateway for MD21, whose consumer is fed by C{bring}.
    """

    def __init__(self, **options: Any) -> None:
        DownlinkWorld.__init__(self, **options)
        self.md21 = Md21().buildFactory(self.gateway)

    def md21Box(self, asset: str = ASSET, **header: Any) -> Md21Box:
        """
        A box that is here; the header's ack and the server's base values are taken off, and those are acked.
        """
        box = Md21Box(self)
        box.send(makeHeader(asset, **header))
        ack, base, *box.unread = box.received()
        assert ack == values.HeaderAck(HeaderStatus.OK), ack
        assert isinstance(base, values.BaseValues), base
        box.send(values.BaseValueAck(base.revision))
        return box


class Md21Box:
    """
    A client, as PDUs.

    @ivar transport: the gateway's end
    @ivar unread: PDUs that L{received} gives first
    """

    def __init__(self, world: Md21World) -> None:
        self.world = world
        self.transport: Any = LinkTransport()
        link = world.md21.buildProtocol(None)
        assert isinstance(link, Md21Link)
        self.link = link
        self._framing = Framing(values.MAX_PDU)
        self.unread: list[values.Pdu] = []
        link.makeConnection(self.transport)

    def send(self, *pdus: values.Pdu) -> None:
        """
        PDUs to the gateway in one read, and a turn of its reactor.
        """
        self.write(b"".join(frame(encode(pdu)) for pdu in pdus))

    def write(self, data: bytes) -> None:
        """
        Bytes to the gateway.
        """
        self.link.dataReceived(data)
        self.world.turn()

    def received(self) -> list[values.Pdu]:
        """
        The PDUs that the gateway has sent since last asked.
        """
        data = self.transport.value()
        self.transport.clear()
        unread, self.unread = self.unread, []
        return unread + [decode(pdu) for pdu in self._framing.feed(data)]

    def block(self, first: int, count: int = 1, wantAck: WantAck = WantAck.ALL_30) -> None:
        """
        A block of tracks, one a second from L{START} on.
        """
        self.send(makeBlock(first, count, wantAck))

    def acks(self) -> int:
        """
        How many tracking acks have come since last asked; nothing else may have.
        """
        pdus = self.received()
        assert all(isinstance(pdu, values.TrackingAck) for pdu in pdus), pdus
        return len(pdus)

    def lose(self, reason: Exception | None = None) -> None:
        """
        The connection is gone.
        """
        self.link.connectionLost(Failure(reason or ConnectionDone()))
        self.world.turn()

    @property
    def isClosed(self) -> bool:
        """
        The gateway has closed the link.
        """
        return bool(self.transport.disconnecting or self.transport.isAborted)


def makeHeader(asset: str = ASSET, **fields: Any) -> values.Header:
    """
    A header as C{open:} admits it.
    """
    return values.Header(**{"version": 1, "asset": asset, "account": "dev", "secret": "s", **fields})


def makeTrack(number: int) -> Track:
    """
    The n-th track.
    """
    return Track(START + number * 1000, 4_885_660 + number, 235_220, ((8, number), (14, number % 2 == 0)))


def makeBlock(first: int, count: int = 1, wantAck: WantAck = WantAck.ALL_30) -> values.TrackingData:
    """
    A block of those.
    """
    return values.TrackingData(wantAck, tuple(makeTrack(number) for number in range(first, first + count)))
