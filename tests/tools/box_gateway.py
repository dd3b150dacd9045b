"""
A gateway in memory for the tests of the simulated boxes, and a reactor that connects them to it. It keeps sessions,
marks, tracks and mailboxes for real, and can be told to be slow, to forget, to refuse and to break rules.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.test.iosim import FakeTransport, IOPump, connect

from binaryserver.mqtt.connection import Connection
from binaryserver.mqtt.events import Broken, Connect, Disconnect, Event, Puback, Publish, Subscribe
from binaryserver.proto.md30_pb2 import IndexNotice, Message, Track, TrackBatch

NOW = 1_790_000_000.0
"""s, where the clock of a test begins: Unix time, like a real reactor's."""


class Mail:
    """
    A message in a mailbox.

    @ivar attempts: how often it was sent
    """

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.attempts = 0


class MemoryGateway:
    """
    @ivar marks: committed index by asset and stream
    @ivar tracks: every track that was taken, once each, by (asset, stream, index)
    @ivar duplicates: how many came again
    @ivar connects: every CONNECT
    @ivar publishes: every PUBLISH with tracks: (asset, packet id, DUP, first index, number of tracks)
    @ivar clean: how many links ended with a DISCONNECT
    @ivar holding: acks wait for L{release}
    @ivar deaf: nothing is read behind a CONNECT
    @ivar losing: tracks are read and forgotten
    @ivar refusal: the code for the next CONNACKs
    @ivar answersIndex: index notices are given
    @ivar subscribes: every SUBSCRIBE: the filters
    @ivar mailboxes: what each box has not acked yet
    @ivar answers: every PUBLISH on C{m}: (asset, packet id, DUP, message)
    @ivar refuses: topics that nobody may subscribe to
    @ivar messageAcks: packets on C{m} are acked
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.marks: dict[tuple[str, int], int] = {}
        self.tracks: dict[tuple[str, int, int], Track] = {}
        self.duplicates = 0
        self.connects: list[Connect] = []
        self.publishes: list[tuple[str, int, bool, int, int]] = []
        self.clean = 0
        self.holding = False
        self.deaf = False
        self.losing = False
        self.refusal = 0
        self.answersIndex = True
        self.subscribes: list[tuple[str, ...]] = []
        self.mailboxes: dict[str, list[Mail]] = {}
        self.answers: list[tuple[str, int, bool, Message]] = []
        self.refuses: set[str] = set()
        self.messageAcks = True
        self.listening: set[str] = set()
        self.sessions: dict[str, tuple[int, ...]] = {}
        self.links: list[GatewayLink] = []

    def link(self) -> GatewayLink:
        """
        Its end of a new link.
        """
        return GatewayLink(self)

    def release(self) -> None:
        """
        Send the acks that were held.
        """
        self.holding = False
        for link in self.links:
            link.release()

    def send(self, asset: str, *messages: Message) -> None:
        """
        Put messages into a box's mailbox, and let it have them if it listens.
        """
        self.mailboxes.setdefault(asset, []).extend(Mail(message.SerializeToString()) for message in messages)
        for link in list(self.links):
            if link.asset == asset and link.isListening:
                link.deliver()

    def take(self, asset: str, event: Publish) -> None:
        """
        Commit what is new of a batch.
        """
        batch = TrackBatch()
        if event.topic == "tj":
            json_format.Parse(event.payload, batch)
        else:
            batch.ParseFromString(event.payload)
        self.publishes.append((asset, event.packetId, event.dup, batch.first_index, len(batch.tracks)))
        for index, track in enumerate(batch.tracks, batch.first_index):
            mark = self.marks.get((asset, batch.stream), 0)
            if index <= mark:
                self.duplicates += 1
            else:
                self.marks[asset, batch.stream] = index
                self.tracks[asset, batch.stream, index] = track


class GatewayLink(Protocol):
    """
    The gateway's end of one link.
    """

    asset = ""
    transport: ITransport

    def __init__(self, gateway: MemoryGateway) -> None:
        self.gateway = gateway
        self.connection = Connection(gateway.clock.seconds())
        self.persistent = False
        self.held: list[tuple[int, int]] = []
        self.isListening = False
        self.inflight: dict[int, Mail] = {}
        self.lastId = 0

    def connectionMade(self) -> None:
        """
        See L{Protocol}.
        """
        self.gateway.links.append(self)

    def dataReceived(self, data: bytes) -> None:
        """
        See L{Protocol}.
        """
        if not (self.gateway.deaf and self.asset):
            self.handle(self.connection.receiveData(data, self.gateway.clock.seconds()))

    def handle(self, events: list[Event]) -> None:
        """
        Do what events ask for.
        """
        gateway, connection = self.gateway, self.connection
        for event in events:
            if isinstance(event, Connect):
                gateway.connects.append(event)
                if gateway.refusal:
                    connection.refuse(gateway.refusal)
                    self.flush()
                    self.drop()
                    return
                self.asset = event.clientId
                self.persistent = not event.cleanSession
                if event.cleanSession:
                    gateway.sessions.pop(self.asset, None)
                    gateway.listening.discard(self.asset)
                kept = gateway.sessions.get(self.asset)
                if self.persistent:
                    gateway.sessions[self.asset] = kept or ()
                self.handle(
                    connection.accept(
                        kept is not None, event.keepAlive, received=kept or (), now=gateway.clock.seconds()
                    )
                )
                if self.asset in gateway.listening:
                    self.deliver()
            elif isinstance(event, Subscribe):
                topics = tuple(topic for topic, _ in event.filters)
                gateway.subscribes.append(topics)
                codes = [0x80 if topic in gateway.refuses else qos for topic, qos in event.filters]
                connection.suback(event.packetId, codes)
                self.notify()
                if "d" in topics and "d" not in gateway.refuses:
                    gateway.listening.add(self.asset)
                    self.deliver()
            elif isinstance(event, Publish) and event.topic == "i":
                self.notify()
            elif isinstance(event, Publish) and event.topic == "m":
                answer = (self.asset, event.packetId, event.dup, Message.FromString(event.payload))
                gateway.answers.append(answer)
                if gateway.messageAcks:
                    self.held.append((event.qos, event.packetId))
            elif isinstance(event, Puback):
                gateway.mailboxes[self.asset].remove(self.inflight.pop(event.packetId))
            elif isinstance(event, Publish):
                if not gateway.losing:
                    gateway.take(self.asset, event)
                if event.qos:
                    self.held.append((event.qos, event.packetId))
            elif isinstance(event, Disconnect):
                gateway.clean += 1
                self.drop()
            elif isinstance(event, Broken):
                raise event.error
        if not gateway.holding:
            self.release()
        self.flush()

    def deliver(self) -> None:
        """
        Send what is in the mailbox and was not sent on this link.
        """
        self.isListening = True
        for mail in self.gateway.mailboxes.get(self.asset, ()):
            if mail not in self.inflight.values():
                self.lastId += 1
                self.inflight[self.lastId] = mail
                self.connection.publish("d", mail.payload, 1, self.lastId, dup=mail.attempts > 0)
                mail.attempts += 1
        self.flush()

    def notify(self) -> None:
        """
        Send the index notices.
        """
        if self.gateway.answersIndex:
            for (asset, stream), mark in self.gateway.marks.items():
                if asset == self.asset:
                    self.connection.publish("i", IndexNotice(stream=stream, last_index=mark).SerializeToString())

    def release(self) -> None:
        """
        Ack what is held.
        """
        for qos, packetId in self.held:
            if qos == 1:
                self.connection.puback([packetId])
            else:
                self.connection.pubrec(packetId)
        self.held.clear()
        self.flush()

    def flush(self) -> None:
        """
        Write what is queued.
        """
        if self.persistent:
            self.gateway.sessions[self.asset] = tuple(self.connection.received)
        self.transport.write(self.connection.dataToSend())

    def send(self, data: bytes) -> None:
        """
        Write what no gateway should.
        """
        self.transport.write(data)

    def drop(self) -> None:
        """
        End the link.
        """
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        See L{Protocol}.
        """
        self.gateway.links.remove(self)


class CutTransport(FakeTransport):
    """
    One end of a link whose abort loses what is on its way, both ways.
    """

    other: FakeTransport

    def abortConnection(self) -> None:
        """
        See L{ITCPTransport}.
        """
        self.stream.clear()
        self.other.stream.clear()
        self.disconnecting = True


class MemoryReactor(Clock):
    """
    Connects everything to one gateway, wherever it wants to go.

    @ivar refusing: connects fail
    @ivar ports: those that were connected to, in their order
    """

    def __init__(self) -> None:
        Clock.__init__(self)
        self.advance(NOW)
        self.gateway = MemoryGateway(self)
        self.refusing = False
        self.attempts = 0
        self.ports: list[int] = []
        self.pumps: list[IOPump] = []
        self.triggers: list[Any] = []

    def connectTCP(self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None) -> None:
        """
        See L{IReactorTCP}.
        """
        self.attempts += 1
        self.ports.append(port)
        if self.refusing:
            factory.clientConnectionFailed(None, Failure(ConnectionRefusedError()))
            return
        box, gateway = factory.buildProtocol(None), self.gateway.link()
        near, far = CutTransport(box, isServer=False), CutTransport(gateway, isServer=True)
        near.other, far.other = far, near
        self.pumps.append(connect(gateway, far, box, near, greet=False, clock=self))

    def addSystemEventTrigger(self, phase: str, event: str, trigger: Any) -> None:
        """
        See L{IReactorCore}.
        """
        self.triggers.append(trigger)

    def flush(self) -> None:
        """
        Carry bytes until none is under way.
        """
        while any([pump.flush(advanceClock=False) for pump in self.pumps]):
            pass

    def run(self, seconds: float, step: float = 0.05) -> None:
        """
        Let time pass, and bytes be carried all the while.
        """
        for _ in range(round(seconds / step)):
            self.flush()
            self.advance(step)
        self.flush()
