"""
The server's side of one MQTT 3.1.1 link, without the link: bytes and times come in, events and bytes go out.

The owner moves the bytes, keeps the clock, and decides what the events ask of it: whether a CONNECT is accepted, what
a subscription is granted, when a PUBLISH is committed and so may be acknowledged. What MQTT leaves no choice about is
done here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from enum import Enum
from typing import Final, cast

from binaryserver.errors import MissingTransition, PeerTimeout, ProtocolViolation
from binaryserver.mqtt.events import Broken, Connect, Disconnect, Event, Publish, Pubrel
from binaryserver.mqtt.framing import Framing
from binaryserver.mqtt.packets import (
    PINGRESP,
    ConnectCode,
    Packet,
    Pingreq,
    Pubcomp,
    Pubrec,
    encodeConnack,
    encodePubacks,
    encodePubcomp,
    encodePublish,
    encodePubrec,
    encodeSuback,
    encodeUnsuback,
)
from binaryserver.mqtt.parsers import FIRST_FROM_CLIENT, FROM_CLIENT, ConnectRefused
from binaryserver.mqtt.qos2 import MAX_UNRELEASED, Arrival, Qos2Receiver

MAX_CONNECT: Final = 16384
"""
bytes; the largest CONNECT, however large other packets may be: nobody knows yet who sends it. MQTT lets a server have
such restrictions (section 3.1.4).
"""
_NO_IDS: Final[frozenset[int]] = frozenset()


class ConnectionState(Enum):
    """
    What is awaited.
    """

    awaitingConnect = "the CONNECT"
    awaitingDecision = "the owner's accept or refuse"
    open = "packets"
    closed = "nothing more"


class _Input(Enum):
    """
    What takes a connection from state to state.
    """

    connect = "a CONNECT came"
    accept = "the owner accepted it"
    refuse = "the owner refused it"
    disconnect = "a DISCONNECT came"
    fail = "the client broke a rule"
    close = "the owner closed the link"


_TRANSITIONS: Final = {
    (ConnectionState.awaitingConnect, _Input.connect): ConnectionState.awaitingDecision,
    (ConnectionState.awaitingConnect, _Input.fail): ConnectionState.closed,
    (ConnectionState.awaitingConnect, _Input.close): ConnectionState.closed,
    (ConnectionState.awaitingDecision, _Input.accept): ConnectionState.open,
    (ConnectionState.awaitingDecision, _Input.refuse): ConnectionState.closed,
    (ConnectionState.awaitingDecision, _Input.fail): ConnectionState.closed,
    (ConnectionState.awaitingDecision, _Input.close): ConnectionState.closed,
    (ConnectionState.open, _Input.disconnect): ConnectionState.closed,
    (ConnectionState.open, _Input.fail): ConnectionState.closed,
    (ConnectionState.open, _Input.close): ConnectionState.closed,
    (ConnectionState.closed, _Input.close): ConnectionState.closed,
}


class Connection:
    """
    One link. Nothing here raises for what the peer sent; L{Broken} is always the last event.

    Sending to a closed connection does nothing, since commits may come back after the link has gone.

    @ivar state: L{ConnectionState}
    @ivar controls: PINGREQ that came; its owner sets it back
    """

    __slots__ = (
        "_connectTimeout",
        "_framing",
        "_heardAt",
        "_keepAlive",
        "_maxPacket",
        "_out",
        "_packetTimeout",
        "_qos2",
        "_seenAt",
        "_startedAt",
        "_suspendedAt",
        "controls",
        "state",
    )

    def __init__(
        self, now: float, maxPacket: int = 262144, connectTimeout: float = 10.0, packetTimeout: float = 30.0
    ) -> None:
        """
        @param now: s, of any clock that never goes back; all other times are of it
        @param maxPacket: bytes, the largest packet that is taken; a CONNECT may have L{MAX_CONNECT} at most
        @param connectTimeout: s from C{now}, within which the CONNECT is whole
        @param packetTimeout: s from its first byte, within which any later packet is whole, however it drips
        """
        self.state = ConnectionState.awaitingConnect
        self.controls = 0
        self._qos2: Qos2Receiver | None = None
        self._framing = Framing(FIRST_FROM_CLIENT, min(maxPacket, MAX_CONNECT))
        self._maxPacket = maxPacket
        self._connectTimeout = connectTimeout
        self._packetTimeout = packetTimeout
        self._keepAlive = 0.0
        self._heardAt = now
        self._seenAt = now
        self._startedAt: float | None = None
        self._suspendedAt: float | None = None
        self._out: list[bytes] | None = None

    @property
    def received(self) -> AbstractSet[int]:
        """
        QoS 2 packet ids that were committed and not yet released, for C{MqttSession.received}. Still there, and still
        added to by L{pubrec}, once the connection is closed.
        """
        return _NO_IDS if self._qos2 is None else self._qos2.received

    @property
    def partialSize(self) -> int:
        """
        Bytes of the packet that has started to arrive, those to come included; 0 as long as its length is not known.
        """
        return self._framing.partialSize

    def receiveData(self, data: bytes, now: float) -> list[Event]:
        """
        Take what one read brought.

        PINGREQ [MQTT-3.12.4-1] and PUBREL are answered here. A QoS 2 PUBLISH whose id is known gives no event: while
        the first copy is being committed its PUBREC answers both, and after that a PUBREC is queued at once
        [MQTT-4.3.3-2]. What comes before L{accept} is kept unread, at most C{maxPacket} bytes of it.

        @return: in the order of the packets; L{Broken} or L{Disconnect} at most as the last one
        """
        state = self.state
        if state is ConnectionState.open:
            return self._take(self._framing.feed(data), now)
        self._seenAt = now
        if state is ConnectionState.awaitingConnect:
            return self._takeFirst(self._framing.feed(data), now)
        if state is ConnectionState.awaitingDecision:
            broken = self._framing.keep(data)
            if broken is not None:
                return [self._fail(broken)]
        return []

    def accept(
        self, sessionPresent: bool, keepAlive: int, received: Iterable[int] = (), now: float | None = None
    ) -> list[Event]:
        """
        Answer the CONNECT with CONNACK 0 [MQTT-3.1.4-4], and read what came after it.

        @param sessionPresent: a stored session goes on [MQTT-3.2.2-2]; never with a clean one [MQTT-3.2.2-1]
        @param keepAlive: s, as in the CONNECT
        @param received: packet ids of that stored session, as in C{MqttSession}
        @param now: s; the keep-alive counts from it. L{None}: from the last read.
        @return: as L{receiveData}
        @raise MissingTransition: there is no CONNECT to accept
        """
        self._go(_Input.accept)
        self._send(encodeConnack(sessionPresent, ConnectCode.ACCEPTED))
        self._keepAlive = keepAlive * 1.5
        carried = tuple(received)
        if carried:
            self._qos2 = Qos2Receiver(carried)
        if now is None:
            now = self._seenAt
        self._heardAt = now
        return self._take(self._framing.proceed(FROM_CLIENT, self._maxPacket), now)

    def refuse(self, code: int) -> None:
        """
        Answer the CONNECT with a refusal; what came after it is never read [MQTT-3.1.4-5].

        @param code: a L{ConnectCode} other than 0
        @raise MissingTransition: there is no CONNECT to refuse
        """
        self._go(_Input.refuse)
        self._queue(encodeConnack(False, code))

    def puback(self, packetIds: Sequence[int]) -> None:
        """
        Queue a PUBACK for each of these QoS 1 PUBLISHes, in this order [MQTT-4.6.0-2].
        """
        self._send(encodePubacks(packetIds))

    def pubrec(self, packetId: int) -> None:
        """
        This QoS 2 PUBLISH is committed: queue its PUBREC, and know its id until the PUBREL [MQTT-4.3.3-2].

        @raise MissingTransition: there was no QoS 2 PUBLISH
        """
        if self._qos2 is None:
            raise MissingTransition(f"PUBREC for {packetId}, of which there was no PUBLISH")
        self._qos2.commit(packetId)
        self._send(encodePubrec(packetId))

    def suback(self, packetId: int, codes: Iterable[int]) -> None:
        """
        @param codes: for each filter of the SUBSCRIBE, in their order, the granted QoS or 0x80 [MQTT-3.9.3-1]
        """
        self._send(encodeSuback(packetId, codes))

    def unsuback(self, packetId: int) -> None:
        """
        Queue the UNSUBACK that every UNSUBSCRIBE gets [MQTT-3.10.4-5].
        """
        self._send(encodeUnsuback(packetId))

    def publish(
        self, topic: str, payload: bytes, qos: int = 0, packetId: int = 0, dup: bool = False, retain: bool = False
    ) -> None:
        """
        Queue a PUBLISH to the client. Packet ids are the owner's to choose.

        @raise ValueError: a value that no PUBLISH can hold
        """
        self._send(encodePublish(topic, payload, qos, packetId, dup, retain))

    def dataToSend(self) -> bytes:
        """
        Give what is queued for the client, once. May be asked for after the connection broke or was refused: what was
        queued until then still goes out.
        """
        out = self._out
        if out is None:
            return b""
        self._out = None
        return out[0] if len(out) == 1 else b"".join(out)

    def deadline(self) -> float | None:
        """
        When L{timeout} is due; L{None}: not before something else happens.
        """
        due = self._due()
        return None if due is None else due[0]

    def timeout(self, now: float) -> Broken | None:
        """
        Break the connection if the client is late: with the CONNECT, with a packet that it started, or beyond one and
        a half times the keep-alive, which any whole packet renews and a part of one does not [MQTT-3.1.2-24].

        @return: L{None} when it is not late after all
        """
        due = self._due()
        if due is None or now < due[0]:
            return None
        return self._fail(Broken(PeerTimeout(due[1], due[2])))

    def suspend(self) -> None:
        """
        Nothing is read from the client for now, so that it cannot be late: L{deadline} gives L{None} until L{resume}.
        What was read before may still come in, and is taken as ever.
        """
        if self._suspendedAt is None:
            # As of the last read: for the client, rather a little more time than less.
            self._suspendedAt = self._seenAt

    def resume(self, now: float) -> None:
        """
        The client is read again: each timer has as much left as when it was suspended.
        """
        since = self._suspendedAt
        if since is None:
            return
        self._suspendedAt = None
        self._seenAt = now
        pause = now - since
        self._heardAt = min(self._heardAt + pause, now)
        if self._startedAt is not None:
            self._startedAt = min(self._startedAt + pause, now)

    def close(self) -> None:
        """
        The link is gone or going: drop what is held and queued; later reads give nothing.
        """
        self._go(_Input.close)
        self._out = None

    def _take(self, packets: list[Packet | Broken], now: float) -> list[Event]:
        """
        Turn what the framing gave on an open connection into events, and note the time.
        """
        self._seenAt = now
        framing = self._framing
        if packets:
            self._heardAt = now
            # What is held now came after these packets, and so with this read.
            self._startedAt = None if framing.partial is None else now
            if framing.mixed:
                return self._events(packets)
        elif self._startedAt is None and framing.partial is not None:
            self._startedAt = now
        return cast("list[Event]", packets)

    def _takeFirst(self, packets: list[Packet | Broken], now: float) -> list[Event]:
        for packet in packets:
            if isinstance(packet, Connect):
                self._go(_Input.connect)
                return [packet]
            if isinstance(packet, Broken):
                if isinstance(packet.error, ConnectRefused):
                    self._send(encodeConnack(False, packet.error.code))
                return [self._fail(packet)]
        return []

    def _events(self, packets: list[Packet | Broken]) -> list[Event]:
        events: list[Event] = []
        pings = 0
        for packet in packets:
            if type(packet) is Pingreq:
                pings += 1
                self.controls += 1
                continue
            if pings:
                self._send(PINGRESP * pings)
                pings = 0
            if isinstance(packet, Publish):
                if packet.qos < 2 or self._arrive(packet):
                    events.append(packet)
                    if self._qos2 is not None and self._qos2.full:
                        events[-1] = self._violation(f"more than {MAX_UNRELEASED} QoS 2 packet ids await their PUBREL")
                        break
            elif isinstance(packet, Pubrel):
                if self._qos2 is not None and not self._qos2.release(packet.packetId):
                    events.append(self._violation("a PUBREL came before the PUBREC", "MQTT-4.3.3-1"))
                    break
                self._send(encodePubcomp(packet.packetId))
                events.append(packet)
            elif isinstance(packet, Broken):
                events.append(self._fail(packet))
            elif isinstance(packet, Disconnect):
                # Nothing after it is read.
                self._go(_Input.disconnect)
                events.append(packet)
                break
            elif isinstance(packet, Connect):
                events.append(self._violation("a second CONNECT", "MQTT-3.1.0-2"))
                break
            elif isinstance(packet, (Pubrec, Pubcomp)):
                events.append(self._violation("an answer to a QoS 2 PUBLISH, of which none was sent", "MQTT-4.8.0-1"))
                break
            else:
                events.append(cast("Event", packet))
        if pings:
            self._send(PINGRESP * pings)
        return events

    def _arrive(self, publish: Publish) -> bool:
        """
        Is this QoS 2 PUBLISH one to be committed? If it is known and committed, its PUBREC is queued again.
        """
        if self._qos2 is None:
            self._qos2 = Qos2Receiver()
        arrival = self._qos2.arrive(publish)
        if arrival is Arrival.committed:
            self._send(encodePubrec(publish.packetId))
        return arrival is Arrival.new

    def _due(self) -> tuple[float, str, str] | None:
        """
        The next time at which the client is late: when, with what, by which clause.
        """
        if self._suspendedAt is not None:
            return None
        if self.state is ConnectionState.awaitingConnect:
            return self._heardAt + self._connectTimeout, "no whole CONNECT in time", ""
        if self.state is not ConnectionState.open:
            return None
        due = None
        if self._keepAlive:
            due = self._heardAt + self._keepAlive, "no packet within 1.5 times the keep-alive", "MQTT-3.1.2-24"
        if self._startedAt is not None:
            whole = self._startedAt + self._packetTimeout
            if due is None or whole < due[0]:
                due = whole, "a packet was started and not ended in time", ""
        return due

    def _violation(self, message: str, clause: str = "") -> Broken:
        return self._fail(Broken(ProtocolViolation(message, clause)))

    def _fail(self, broken: Broken) -> Broken:
        self._go(_Input.fail)
        return broken

    def _go(self, event: _Input) -> None:
        state = _TRANSITIONS.get((self.state, event))
        if state is None:
            raise MissingTransition(f"{event.value}, while {self.state.value} was awaited")
        self.state = state
        if state is ConnectionState.closed:
            self._framing.drop()
            self._startedAt = None

    def _send(self, data: bytes) -> None:
        if self.state is not ConnectionState.closed:
            self._queue(data)

    def _queue(self, data: bytes) -> None:
        if self._out is None:
            self._out = [data]
        else:
            self._out.append(data)
