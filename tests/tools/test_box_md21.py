"""
Tests for simulated boxes that speak MD21, on a server in memory: blocks, acks, messages, and what becomes of a link.
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.md21 import codec
from binaryserver.md21.client import VERSION as GATEWAYS_VERSION
from binaryserver.md21.datagrams import MAX_SENT
from binaryserver.md21.values import (
    BaseValueAck,
    BaseValues,
    Capabilities,
    Channel,
    Disconnect,
    FileAck,
    FileStart,
    FileStatus,
    Header,
    HeaderAck,
    HeaderStatus,
    Message,
    MessageAck,
    MessageStatus,
    Ping,
    Reason,
    ReconfigureMsg,
    ReconfigureTrk,
    TrackingAck,
    TrackingData,
    WantAck,
)
from binaryserver.tools.box_blocks import BlockTape
from binaryserver.tools.box_client import ANSWER_TIMEOUT
from binaryserver.tools.box_endpoint import Access
from binaryserver.tools.box_fleet import Fleet
from binaryserver.tools.box_inbox import AckChoice
from binaryserver.tools.box_md21 import VERSION
from binaryserver.tools.box_plan import BoxPlan, BoxState, Md21Plan, Resend
from binaryserver.tools.box_store import Batch, Recording, StateDirectory
from binaryserver.tools.box_sums import MessageSums, Sums
from tests.tools.fakemd21 import Md21Reactor

STAY = 60.0


def message(number: int, payload: bytes = b"x", channel: str = "c", serverId: int | None = 0, **more: Any) -> Message:
    """
    One to a box, for a named channel; 0: its server's id is its number.
    """
    return Message(number, 0, channel, payload, serverId=number if serverId == 0 else serverId, **more)


class Md21Case(SynchronousTestCase):
    """
    A server, and fleets on it.
    """

    def setUp(self) -> None:
        """
        One clock for all.
        """
        self.reactor = Md21Reactor()
        self.server = self.reactor.gateway
        self.heard: list[tuple[str, str, bytes]] = []

    def fleet(
        self, boxes: int = 1, tracks: int = 10, md21: Md21Plan | None = None, seed: int = 1, **options: Any
    ) -> Fleet:
        """
        A fleet of boxes C{box-1} and on.
        """
        endpoint = TCP4ClientEndpoint(self.reactor, "127.0.0.1", 2100)
        state = options.pop("state", None)
        options.setdefault("resend", Resend.NEW)
        return Fleet(
            self.reactor,
            lambda asset: Access(endpoint),
            BoxPlan(md21=md21 or Md21Plan(), **options),
            [f"box-{number + 1}" for number in range(boxes)],
            tracks,
            random=Random(seed),
            state=state,
            wallTime=self.reactor.seconds,
            messageHeard=lambda asset, heard: self.heard.append((asset, heard.message.id, heard.message.payload)),
        )

    def start(self, *arguments: Any, **options: Any) -> Deferred[Sums]:
        """
        Start a fleet, and let what needs no time happen.
        """
        done = self.fleet(*arguments, **options).start()
        self.reactor.flush()
        return done

    def assertTaken(self, boxes: int, tracks: int) -> None:
        """
        The server has every track of every box, no two of one box at the same time.
        """
        times = {(asset, track.recordedAt) for asset, track in self.server.tracks}
        self.assertEqual((len(self.server.tracks), len(times)), (boxes * tracks, boxes * tracks))
        self.assertEqual(len({asset for asset, _ in times}), boxes)


class TapeTests(SynchronousTestCase):
    """
    What stands in blocks.
    """

    # The first block of a route has the whole of it worked out.
    @settings(deadline=None)
    @given(
        st.builds(
            Recording,
            first=st.integers(1, 1 << 40),
            startMs=st.integers(1_400_000_000_000, 3_000_000_000_000),
            stepMs=st.integers(1000, 60_000),
            place=st.integers(0, 1 << 24),
        ),
        st.integers(0, 5000),
        st.integers(1, 256),
        st.text(max_size=9),
    )
    def test_anyBlock(self, recording: Recording, skip: int, count: int, asset: str) -> None:
        """
        Any block can be written, is read as it was made, and its tracks are the same wherever it was cut.
        """
        first = recording.first + skip
        tape = BlockTape(asset)
        tracks = tape.tracks(Batch(first, first + count, recording))
        pdu = tape.block(Batch(first, first + count, recording), WantAck.ALL_0)
        self.assertEqual(codec.decode(pdu), TrackingData(WantAck.ALL_0, tracks))
        self.assertEqual(tape.tracks(Batch(first + count - 1, first + count, recording)), tracks[-1:])
        self.assertEqual(len({track.recordedAt for track in tracks}), count)


class DeliveryTests(Md21Case):
    """
    What a box brings on a good network.
    """

    def test_all(self) -> None:
        """
        Every track of every box arrives once, in blocks as asked for, is acked, and the links end in good order.
        """
        sums = self.successResultOf(self.start(3, 10, batch=3))
        self.assertTaken(3, 10)
        self.assertEqual([len(tracks) for _, tracks, _ in self.server.blocks], [3, 3, 3, 1] * 3)
        self.assertEqual(
            (sums.boxes, sums.tracks, sums.sent, sums.acked, sums.pubacked, sums.resent, sums.connects),
            (3, 30, 30, 30, 30, 0, 3),
        )
        self.assertTrue(sums.complete)
        self.assertEqual(self.server.reasons, [Reason.IDLE_OUT] * 3)
        self.assertEqual(self.server.duplicates(), 0)

    def test_header(self) -> None:
        """
        The header names the box, its account, its secret, and what it can; of a version that the gateway has.
        """
        self.start(account="acme", password=b"s\xc3\xa9cret", md21=Md21Plan(udp=True))
        header = Header(VERSION, "box-1", "acme", "sécret", False, Reason.COLD_BOOT, Capabilities(True, True, False))
        self.assertEqual(self.server.headers, [(header, False)])
        self.assertEqual(VERSION, GATEWAYS_VERSION)

    def test_noAccount(self) -> None:
        """
        Without one the account is that which an open directory gives.
        """
        self.start(ack=None)
        header, _ = self.server.headers[0]
        self.assertEqual((header.account, header.secret, header.capabilities), ("dev", None, Capabilities()))

    def test_baseValues(self) -> None:
        """
        A box tells its base values, and acks the server's.
        """
        self.start(keepAlive=40, md21=Md21Plan(WantAck.ALL_10))
        self.assertEqual(
            self.server.pdus, [("box-1", BaseValues(1, (), WantAck.ALL_10, 40)), ("box-1", BaseValueAck(1))]
        )

    def test_baseValuesNotAcked(self) -> None:
        """
        A server that does not ack them is left.
        """
        self.server.baseValueAcks = False
        self.start(stay=STAY)
        self.reactor.run(ANSWER_TIMEOUT + 0.2)
        self.assertEqual(self.server.links, [])
        self.reactor.run(2)
        self.assertEqual(len(self.server.links), 1)

    def test_inflight(self) -> None:
        """
        So many blocks go without an ack, and no more.
        """
        self.server.holding = True
        done = self.start(tracks=20, batch=2, inflight=3)
        self.assertEqual(len(self.server.blocks), 3)
        self.server.release()
        self.reactor.flush()
        self.assertTrue(self.successResultOf(done).complete)

    def test_rate(self) -> None:
        """
        At a given rate a block goes when all its tracks are there.
        """
        self.start(tracks=12, batch=4, rate=2.0)
        self.reactor.run(1.4)
        self.assertEqual(self.server.blocks, [])
        self.reactor.run(1)
        self.assertEqual(len(self.server.blocks), 1)
        self.reactor.run(4)
        self.assertTaken(1, 12)

    def test_slowTracks(self) -> None:
        """
        Tracks whose times are too far apart for one block go in several.
        """
        path = str(Path(self.mktemp()))
        self.server.holding = True
        fleet = self.fleet(tracks=9, batch=9, rate=1 / 20_000, state=StateDirectory(path))
        fleet.start()
        self.reactor.flush()
        fleet.stop()
        self.reactor.flush()
        self.server.holding = False
        self.assertTrue(self.successResultOf(self.start(tracks=0, batch=9, state=StateDirectory(path))).complete)
        self.assertEqual([len(tracks) for _, tracks, _ in self.server.blocks], [4, 4, 1])

    def test_noAcks(self) -> None:
        """
        Blocks that want no ack are forgotten when they are sent; the sums say so.
        """
        sums = self.successResultOf(self.start(tracks=10, batch=4, md21=Md21Plan(WantAck.NONE)))
        self.assertEqual((sums.sent, sums.acked, sums.unasked, sums.complete), (10, 0, 10, True))
        self.assertEqual(self.server.wantAcks, [WantAck.NONE] * 3)
        self.assertTaken(1, 10)

    def test_state(self) -> None:
        """
        Another run goes on where the one before ended: no two tracks of a box are alike, however fast it follows.
        """
        path = str(Path(self.mktemp()))
        for _ in range(3):
            done = self.start(tracks=30, batch=7, state=StateDirectory(path))
            self.assertTrue(self.successResultOf(done).complete)
        self.assertTaken(1, 90)


class LossTests(Md21Case):
    """
    Acks that get lost, links that break, and blocks that come again.
    """

    def test_everySecond(self) -> None:
        """
        Each second ack is lost: what it was for goes again as a whole after its time, on the same link.
        """
        done = self.start(tracks=40, batch=10, loseEvery=2, md21=Md21Plan(WantAck.ALL_10))
        self.assertNoResult(done)
        self.reactor.run(9.9)
        self.assertEqual(len(self.server.blocks), 4)
        self.reactor.run(30)
        sums = self.successResultOf(done)
        # Of 4 acks 2 are lost, of the 2 for what goes again 1, of the next 1 none.
        self.assertEqual((sums.sent, sums.resent, sums.acked, sums.acksIgnored, sums.connects), (40, 30, 40, 3, 1))
        self.assertEqual(self.server.duplicates(), 30)
        self.assertEqual(sums.unexpectedAcks, 0)
        self.assertEqual(
            {tracks for _, tracks, _ in self.server.blocks[4:]}, {self.server.blocks[n][1] for n in (1, 3)}
        )

    def test_newBoundaries(self) -> None:
        """
        After a reconnect the same tracks go in other blocks.
        """
        self.server.holding = True
        self.start(tracks=20, batch=10, ackTimeout=3.0)
        first = {tracks for _, tracks, _ in self.server.blocks}
        self.server.holding = False
        self.reactor.run(6)
        again = {tracks for _, tracks, _ in self.server.blocks[2:]}
        self.assertEqual([len(tracks) for tracks in first], [10, 10])
        self.assertEqual(first & again, set())
        self.assertEqual({track for block in first for track in block}, {track for block in again for track in block})
        self.assertTaken(1, 20)
        self.assertEqual(self.server.headers[1][0].reason, Reason.CONNECTION_LOST)

    def test_sameBlocks(self) -> None:
        """
        Or in the same ones, if it is asked for.
        """
        self.server.holding = True
        done = self.start(tracks=20, batch=10, ackTimeout=3.0, resend=Resend.SAME)
        self.server.holding = False
        self.reactor.run(6)
        sums = self.successResultOf(done)
        self.assertEqual(self.server.blocks[:2], self.server.blocks[2:])
        self.assertEqual((sums.sent, sums.resent, sums.acked, sums.ackTimeouts, sums.connects), (20, 20, 20, 1, 2))

    def test_cuts(self) -> None:
        """
        Links that are cut all the time, and acks that get lost by chance: all is acked in the end.
        """
        done = self.start(
            5, 200, seed=7, batch=5, inflight=4, loseAcks=0.3, cutEvery=4.0, ackTimeout=1.0, reconnectDelay=0.1
        )
        self.reactor.run(120)
        sums = self.successResultOf(done)
        self.assertTaken(5, 200)
        self.assertEqual((sums.sent, sums.acked, sums.complete), (1000, 1000, True))
        self.assertGreater(min(sums.cuts, sums.acksIgnored, sums.ackTimeouts, sums.resent), 3)
        # What comes again is what the box says it has sent again, but for what was under way on a link that it cut.
        self.assertTrue(0 < self.server.duplicates() <= sums.resent)

    def test_lateAck(self) -> None:
        """
        An ack that nothing asked for is counted, and acks no later block.
        """
        done = self.start(tracks=1, stay=STAY)
        self.server.send(TrackingAck())
        self.reactor.run(STAY + 1)
        sums = self.successResultOf(done)
        self.assertEqual((sums.unexpectedAcks, sums.acked, sums.peerErrors), (1, 1, 0))

    def test_takeover(self) -> None:
        """
        A disconnect of the server ends the link, and the box comes again.
        """
        done = self.start(stay=10.0)
        self.server.send(Disconnect(Reason.SERVER_SHUTDOWN))
        self.reactor.run(11)
        sums = self.successResultOf(done)
        self.assertEqual((sums.lostLinks, sums.connects, sums.complete), (1, 2, True))


class GreetingTests(Md21Case):
    """
    What the server says of the header.
    """

    def test_refused(self) -> None:
        """
        What will not change ends the box.
        """
        for status in HeaderStatus:
            if status in (HeaderStatus.OK, HeaderStatus.SERVER_BUSY, HeaderStatus.SERVER_CLOSING):
                continue
            self.setUp()
            self.server.status = status
            sums = self.successResultOf(self.start())
            self.assertEqual((sums.refused, sums.acked, sums.complete), (1, 0, False), status)

    def test_later(self) -> None:
        """
        What may change does not.
        """
        for status in (HeaderStatus.SERVER_BUSY, HeaderStatus.SERVER_CLOSING):
            self.setUp()
            self.server.status = status
            done = self.start()
            self.reactor.run(0.2)
            self.server.status = HeaderStatus.OK
            self.reactor.run(3)
            sums = self.successResultOf(done)
            self.assertEqual((sums.refused, sums.lostLinks, sums.complete), (0, 1, True), status)

    def test_wrongOrder(self) -> None:
        """
        A server that says something else first, or a second headerack, breaks the protocol.
        """
        fleet = self.fleet(stay=STAY)
        fleet.start()
        self.reactor.flush()
        self.server.send(HeaderAck(HeaderStatus.OK))
        self.reactor.flush()
        self.assertEqual((fleet.sums.peerErrors, fleet.boxes[0].state), (1, BoxState.waiting))
        self.server.status = HeaderStatus.SERVER_BUSY
        self.server.deaf = True
        self.reactor.run(2)
        self.assertEqual(fleet.sums.peerErrors, 1)

    def test_garbage(self) -> None:
        """
        What is no PDU costs the link, and nothing else.
        """
        for junk in (b"\x00\x00", b"\x00\x02\xff\xff", b"\x00\x01\x2b"):
            self.setUp()
            fleet = self.fleet(stay=STAY)
            fleet.start()
            self.reactor.flush()
            self.server.links[0].transport.write(junk)
            self.reactor.flush()
            self.assertEqual((fleet.sums.peerErrors, fleet.boxes[0].state), (1, BoxState.waiting), junk)

    def test_silence(self) -> None:
        """
        A box pings, and leaves a server that does not answer.
        """
        fleet = self.fleet(tracks=1, stay=200.0, keepAlive=20)
        fleet.start()
        self.reactor.run(21)
        self.assertIn(("box-1", Ping(1)), self.server.pdus)
        self.server.deaf = True
        self.reactor.run(45)
        self.assertEqual((fleet.sums.lostLinks, fleet.sums.connects), (1, 2))

    def test_pinged(self) -> None:
        """
        It answers pings.
        """
        self.start(stay=STAY)
        self.server.send(Ping(77))
        self.reactor.flush()
        self.assertEqual(self.server.pdus[-1], ("box-1", Ping(77, True)))


class MessageTests(Md21Case):
    """
    Messages of the cloud.
    """

    def test_answered(self) -> None:
        """
        Each is acked, then answered where that is wanted; a repeat is known by its server's id, over links too, and
        answered likewise.
        """
        fleet = self.fleet(tracks=0, stay=STAY)
        done = fleet.start()
        self.reactor.flush()
        self.server.send(message(1, b"1"), message(2, b"2", wantAck=True))
        self.reactor.flush()
        self.server.links[0].drop()
        self.reactor.run(2)
        self.server.send(message(5, b"2", serverId=2, wantAck=True), message(6, b"1", serverId=9))
        self.reactor.run(STAY)
        ack = MessageStatus.ACK
        self.assertEqual(
            [pdu for _, pdu in self.server.acks],
            [
                MessageAck(ack, 1, 1),
                MessageAck(ack, 2, 2),
                MessageAck(ack, 2, 2, True),
                MessageAck(ack, 5, 2),
                MessageAck(ack, 5, 2, True),
                MessageAck(ack, 6, 9),
            ],
        )
        self.assertEqual(self.heard, [("box-1", "1", b"1"), ("box-1", "2", b"2"), ("box-1", "9", b"1")])
        sums = self.successResultOf(done)
        self.assertEqual(sums.messages, MessageSums(received=3, repeats=1, disordered=1, acks=2, areAnswersAcked=False))
        self.assertIn("3 messages received, 1 repeats dropped, 1 out of order, 2 application acks sent", sums.toText())
        self.assertNotIn("of them acked", sums.toText())

    def test_choices(self) -> None:
        """
        The application answers what it is told to.
        """
        for choice, status in (
            (AckChoice.NO_LISTENER, MessageStatus.BAD_CHANNEL),
            (AckChoice.NOT_UNDERSTOOD, MessageStatus.NACK),
            (AckChoice.NONE, None),
        ):
            self.setUp()
            self.start(tracks=0, stay=STAY, ack=choice)
            self.server.send(message(1, wantAck=True))
            self.reactor.flush()
            expected = [MessageAck(MessageStatus.ACK, 1, 1)]
            if status is not None:
                expected.append(MessageAck(status, 1, 1, True))
            self.assertEqual([pdu for _, pdu in self.server.acks], expected)

    def test_channels(self) -> None:
        """
        Channels have the numbers that the server has told, in its base values or later; others are refused.
        """
        self.start(tracks=0, stay=STAY)
        self.server.send(
            Message(1, 7, None, b"a", serverId=1),
            Message(2, 8, None, b"b", serverId=2),
            ReconfigureMsg((Channel(8, "eight"),)),
            Message(3, 8, None, b"c", serverId=3),
        )
        self.reactor.flush()
        self.assertEqual([payload for _, _, payload in self.heard], [b"a", b"c"])
        self.assertEqual(
            [pdu.status for _, pdu in self.server.acks],
            [MessageStatus.ACK, MessageStatus.BAD_CHANNEL, MessageStatus.ACK],
        )

    def test_noMessages(self) -> None:
        """
        A box without an application refuses them.
        """
        self.start(tracks=0, stay=STAY, ack=None)
        self.server.send(message(1, wantAck=True))
        self.reactor.flush()
        self.assertEqual(self.server.acks, [("box-1", MessageAck(MessageStatus.BAD_CHANNEL, 1, 1))])
        self.assertEqual(self.heard, [])

    def test_unnamed(self) -> None:
        """
        Without a server's id nothing tells a repeat.
        """
        self.start(tracks=0, stay=STAY)
        self.server.send(message(1, serverId=None), message(1, serverId=None))
        self.reactor.flush()
        self.assertEqual(len(self.heard), 2)

    def test_cutOnMessage(self) -> None:
        """
        A box that cuts its link on a message does not ack it, and knows it when it comes again.
        """
        fleet = self.fleet(tracks=0, stay=STAY, cutOnMessage=1.0)
        fleet.start()
        self.reactor.flush()
        self.server.send(message(1))
        self.reactor.run(2)
        self.assertEqual((self.server.acks, fleet.sums.cuts, fleet.sums.lostLinks), ([], 1, 0))
        self.server.send(message(1))
        self.reactor.flush()
        self.assertEqual((len(self.server.acks), fleet.sums.messages.repeats), (1, 1))

    def test_files(self) -> None:
        """
        Files are refused.
        """
        self.start(tracks=0, stay=STAY)
        self.server.send(FileStart(3, "map", 10, bytes(32)))
        self.reactor.flush()
        self.assertEqual(self.server.pdus[-1], ("box-1", FileAck(3, 0, FileStatus.REFUSED)))

    def test_reconfigured(self) -> None:
        """
        The server may have other blocks acked in another way, from the next on.
        """
        self.server.holding = True
        done = self.start(tracks=6, batch=2, inflight=1, md21=Md21Plan(WantAck.ALL_300))
        self.server.send(ReconfigureTrk(WantAck.ALL_10))
        self.reactor.flush()
        self.server.release()
        self.reactor.flush()
        self.assertTrue(self.successResultOf(done).complete)
        self.assertEqual(self.server.wantAcks, [WantAck.ALL_300, WantAck.ALL_10, WantAck.ALL_10])


class UdpTests(Md21Case):
    """
    Tracks by UDP.
    """

    def test_all(self) -> None:
        """
        Where the server offers it all tracks go by UDP, in blocks that fit into a datagram.
        """
        self.server.udp = 2101
        done = self.start(2, 300, batch=100, md21=Md21Plan(udp=True))
        self.reactor.run(0.5)
        sums = self.successResultOf(done)
        self.assertTaken(2, 300)
        self.assertTrue(all(byDatagram for _, _, byDatagram in self.server.blocks))
        sizes = [len(codec.encode(TrackingData(WantAck.ALL_30, tracks))) for _, tracks, _ in self.server.blocks]
        self.assertGreater(len(sizes), 6)
        self.assertTrue(MAX_SENT / 2 < max(sizes) <= MAX_SENT)
        self.assertEqual(self.reactor.udpPeers, [("127.0.0.1", 2101)] * 2)
        self.assertEqual((sums.acked, sums.resent, sums.udpLinks, sums.unexpectedAcks), (600, 0, 2, 0))
        self.assertEqual((sums.datagramsLost, sums.datagramsResent, sums.badDatagrams), (0, 0, 0))
        self.assertFalse(any(port.isOpen for port in self.reactor.udpPorts))
        self.assertEqual(self.server.ways, {})

    def test_lossy(self) -> None:
        """
        A third of the datagrams is lost, either way: all is acked, and no track came twice.
        """
        self.server.udp = 2101
        done = self.start(2, 200, batch=10, md21=Md21Plan(udp=True, loseDatagrams=0.3))
        self.reactor.run(60)
        sums = self.successResultOf(done)
        self.assertTaken(2, 200)
        self.assertEqual((sums.sent, sums.acked, sums.resent, self.server.duplicates()), (400, 400, 0, 0))
        self.assertGreater(min(sums.datagramsLost, sums.datagramsResent), 10)
        self.assertEqual(sums.lostLinks, 0)

    def test_lossyAndCut(self) -> None:
        """
        The same, with acks lost and links cut.
        """
        self.server.udp = 2101
        done = self.start(
            2,
            200,
            batch=10,
            loseEvery=3,
            ackTimeout=4.0,
            cutEvery=8.0,
            reconnectDelay=0.1,
            md21=Md21Plan(WantAck.ALL_0, udp=True, loseDatagrams=0.2),
        )
        self.reactor.run(200)
        sums = self.successResultOf(done)
        self.assertTaken(2, 200)
        self.assertEqual((sums.sent, sums.acked, sums.complete), (400, 400, True))
        self.assertGreater(min(sums.cuts, sums.resent, self.server.duplicates()), 0)
        self.assertFalse(any(port.isOpen for port in self.reactor.udpPorts))

    def test_noOffer(self) -> None:
        """
        Without an offer tracks go by TCP; a box that does not want UDP gets none.
        """
        sums = self.successResultOf(self.start(md21=Md21Plan(udp=True)))
        self.assertEqual((sums.udpLinks, sums.acked), (0, 10))
        self.server.udp = 2101
        sums = self.successResultOf(self.start())
        self.assertEqual((sums.udpLinks, sums.acked, self.server.opened), (0, 10, 0))

    def test_noAcks(self) -> None:
        """
        What wants no ack of the gateway's still reaches it, by its datagrams' acks.
        """
        self.server.udp = 2101
        done = self.start(tracks=100, batch=5, md21=Md21Plan(WantAck.NONE, udp=True, loseDatagrams=0.3))
        self.reactor.run(40)
        self.assertEqual(self.successResultOf(done).unasked, 100)
        self.assertTaken(1, 100)

    def test_noRoom(self) -> None:
        """
        A block that would go again while there is no room for datagrams does not, and no ack is taken for it.
        """
        self.server.udp = 2101
        self.server.holding = True
        done = self.start(tracks=1000, batch=30, inflight=50, resendAfter=0.5, md21=Md21Plan(udp=True))
        take = self.server.datagramReceived
        self.patch(self.server, "datagramReceived", lambda data, write: None)
        self.reactor.run(20)
        self.server.holding = False
        self.patch(self.server, "datagramReceived", take)
        self.reactor.run(60)
        sums = self.successResultOf(done)
        self.assertTaken(1, 1000)
        self.assertEqual((sums.sent, sums.acked, sums.unexpectedAcks), (1000, 1000, 0))
        self.assertEqual(self.server.duplicates(), sums.resent)

    def test_deaf(self) -> None:
        """
        A way on which nothing is acked is given up with its link.
        """
        self.server.udp = 2101
        self.patch(self.server, "datagramReceived", lambda data, write: None)
        fleet = self.fleet(md21=Md21Plan(WantAck.ALL_0, udp=True))
        fleet.start()
        self.reactor.run(100)
        self.assertEqual((fleet.sums.lostLinks, fleet.sums.connects), (1, 2))

    def test_foreign(self) -> None:
        """
        What shows no token of the link, or is no datagram of MD21, is dropped and counted.
        """
        self.server.udp = 2101
        fleet = self.fleet(stay=STAY, md21=Md21Plan(udp=True))
        fleet.start()
        self.reactor.run(0.5)
        for data in (b"", b"junk", codec.encode(Ping(1))):
            self.reactor.udpPorts[0].took(data)
        self.reactor.flush()
        self.assertEqual((fleet.sums.badDatagrams, fleet.sums.peerErrors, fleet.sums.acked), (3, 0, 10))
        self.assertEqual(fleet.boxes[0].state, BoxState.open)

    def test_wrongWay(self) -> None:
        """
        The ack of a datagram's block comes as a datagram: one by TCP counts for nothing.
        """
        self.server.udp = 2101
        self.server.holding = True
        fleet = self.fleet(md21=Md21Plan(udp=True))
        fleet.start()
        self.reactor.run(0.5)
        self.server.send(TrackingAck())
        self.reactor.flush()
        self.assertEqual((fleet.sums.unexpectedAcks, fleet.sums.acked), (1, 0))
        self.server.release()
        self.reactor.run(0.5)
        self.assertEqual(fleet.sums.acked, 10)

    def test_messages(self) -> None:
        """
        A message that comes by datagram is answered by datagram.
        """
        self.server.udp = 2101
        fleet = self.fleet(stay=STAY, md21=Md21Plan(udp=True))
        fleet.start()
        self.reactor.run(0.5)
        way = self.server.links[0].way
        assert way is not None
        way.send(message(4, b"hello", wantAck=True))
        self.reactor.run(0.5)
        ack = MessageStatus.ACK
        self.assertEqual(self.server.acks, [("box-1", MessageAck(ack, 4, 4)), ("box-1", MessageAck(ack, 4, 4, True))])
        self.assertEqual(way.sequence.deadline(), None)
