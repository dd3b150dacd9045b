"""
Whole streams of bytes, good and bad, against L{binaryserver.mqtt.connection}: what must hold whatever a peer sends.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.errors import PeerError
from binaryserver.mqtt import packets
from binaryserver.mqtt.connection import Connection, ConnectionState
from binaryserver.mqtt.events import Broken, Connect, Disconnect, Event, Publish
from binaryserver.mqtt.framing import Framing
from binaryserver.mqtt.packets import Packet
from binaryserver.mqtt.parsers import FROM_SERVER
from tests.mqtt.samples import AFTER_CONNECT, FROM_CLIENT_TABLE, encode, held, opened

MAX: Final = 4096
CHUNKS: Final = st.lists(st.integers(1, 40), max_size=60)


def chunked(stream: bytes, sizes: Iterable[int]) -> list[bytes]:
    """
    C{stream} in pieces of these sizes; the rest as one.
    """
    pieces = []
    at = 0
    for size in sizes:
        pieces.append(stream[at : at + size])
        at += size
    return [piece for piece in (*pieces, stream[at:]) if piece]


def run(
    case: SynchronousTestCase, connection: Connection, pieces: Iterable[bytes], commits: bool = False
) -> tuple[list[object], bytes]:
    """
    Feed a connection as its owner would, and check what holds at any time.

    @param commits: commit every other QoS 2 PUBLISH after the read that brought it; what is answered then depends on
        the chunks
    @return: what happened, errors by type and text, and all that was queued
    """
    happened: list[object] = []
    out = b""
    for number, piece in enumerate(pieces):
        events = connection.receiveData(piece, float(number))
        for event in events:
            if isinstance(event, Connect):
                happened.append(event)
                events = [*events[:-1], *connection.accept(False, 0)]
        for place, event in enumerate(events):
            isLast = place == len(events) - 1
            case.assertTrue(isLast or not isinstance(event, (Broken, Disconnect)), events)
            happened.append(plain(event))
            if commits and isinstance(event, Publish) and event.qos == 2 and event.packetId % 2:
                connection.pubrec(event.packetId)
        if events and isinstance(events[-1], (Broken, Disconnect)):
            case.assertIs(connection.state, ConnectionState.closed)
        case.assertLessEqual(held(connection), MAX)
        if connection.state is ConnectionState.closed:
            case.assertEqual(held(connection), 0)
        out += connection.dataToSend()
    return happened, out


def plain(event: Event) -> object:
    """
    An event, comparable.
    """
    if isinstance(event, Broken):
        assert isinstance(event.error, PeerError)
        return type(event.error).__name__, str(event.error)
    return event


class StreamTests(SynchronousTestCase):
    """
    Properties of streams.
    """

    @settings(deadline=None)
    @given(st.binary(max_size=400), CHUNKS, st.booleans())
    def test_anyBytes(self, stream: bytes, sizes: list[int], isOpen: bool) -> None:
        """
        Any bytes in any chunks end in L{Broken}, or wait; nothing is raised and memory is bounded.
        """
        connection = opened(maxPacket=MAX) if isOpen else Connection(0.0, MAX)
        run(self, connection, chunked(stream, sizes))

    @settings(deadline=None)
    @given(st.lists(AFTER_CONNECT, max_size=20), CHUNKS)
    def test_commitsAtAnyTime(self, sent: list[Packet], sizes: list[int]) -> None:
        """
        Nor does it matter for that when commits come back.
        """
        stream = packets.encodeConnect("box") + b"".join(map(encode, sent))
        run(self, Connection(0.0, MAX), chunked(stream, sizes), commits=True)

    @settings(deadline=None)
    @given(st.lists(AFTER_CONNECT, max_size=10), CHUNKS, st.data())
    def test_chunksDoNotMatter(self, sent: list[Packet], sizes: list[int], data: st.DataObject) -> None:
        """
        A stream, whole or spoilt at one place, gives the same events and the same answers however it is split.
        """
        stream = bytearray(packets.encodeConnect("box") + b"".join(map(encode, sent)))
        if data.draw(st.booleans()):
            stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
        whole = run(self, Connection(0.0, MAX), [bytes(stream)])
        self.assertEqual(run(self, Connection(0.0, MAX), chunked(bytes(stream), sizes)), whole)
        self.assertEqual(run(self, Connection(0.0, MAX), chunked(bytes(stream), [1] * len(stream))), whole)

    @settings(deadline=None)
    @given(st.binary(max_size=300), CHUNKS)
    def test_clientSide(self, stream: bytes, sizes: list[int]) -> None:
        """
        A client's framing, too, raises nothing and agrees with itself.
        """

        def read(pieces: list[bytes]) -> list[object]:
            framing = Framing(FROM_SERVER, MAX)
            got = [packet for piece in pieces for packet in framing.feed(piece)]
            return [(type(packet.error), str(packet.error)) if isinstance(packet, Broken) else packet for packet in got]

        self.assertEqual(read(chunked(stream, sizes)), read([stream]))


class FuzzTests(SynchronousTestCase):
    """
    Valid streams, mutated by a seeded generator.
    """

    ROUNDS = 2500

    def test_mutated(self) -> None:
        """
        Each mutated stream, in random chunks, keeps the rules of L{run}, and gives the same in one piece; a valid
        stream after it on another connection is not touched by it.
        """
        random = Random(20261124)
        broken = 0
        for _ in range(self.ROUNDS):
            stream = mutate(random, validStream(random))
            sizes = [random.randint(1, 30) for _ in range(random.randint(0, 40))]
            split = run(self, Connection(0.0, MAX), chunked(stream, sizes))
            whole = run(self, Connection(0.0, MAX), [stream])
            self.assertEqual(split, whole, stream.hex())
            broken += bool(split[0]) and type(split[0][-1]) is tuple
        # It does reach both ends.
        self.assertGreater(broken, self.ROUNDS // 10)
        self.assertLess(broken, self.ROUNDS)
        happened, _ = run(self, Connection(0.0, MAX), [packets.encodeConnect("box") + packets.DISCONNECT])
        self.assertEqual(happened[-1], Disconnect())


_POOL: Final = [
    bytes.fromhex(text) for text, packet in FROM_CLIENT_TABLE if not isinstance(packet, (Connect, Disconnect))
]


def validStream(random: Random) -> bytes:
    """
    A CONNECT and some packets.
    """
    publishes = [
        packets.encodePublish("boxes/box/tracks", random.randbytes(random.choice((0, 5, 120, 130, 1000))), 1, packetId)
        for packetId in range(1, random.randint(1, 4))
    ]
    return packets.encodeConnect("box") + b"".join(
        random.choices(_POOL, k=random.randint(0, 6)) + publishes + random.choices(_POOL, k=random.randint(0, 3))
    )


def mutate(random: Random, stream: bytes) -> bytes:
    """
    Up to four mistakes.
    """
    out = bytearray(stream)
    for _ in range(random.randint(0, 4)):
        at = random.randrange(len(out)) if out else 0
        match random.randrange(7):
            case 0:
                out[at : at + 1] = bytes((random.randrange(256),))
            case 1:
                del out[at : at + random.randint(1, 8)]
            case 2:
                out[at:at] = random.randbytes(random.randint(1, 8))
            case 3:
                out[at:at] = out[at : at + random.randint(1, 30)]
            case 4:
                del out[at:]
            case 5:
                out[at : at + 1] = bytes((random.choice((0, 0x7F, 0x80, 0xFF)),))
            case _:
                out[at:at] = random.choice(_POOL)
    return bytes(out)
