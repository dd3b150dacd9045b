"""
A simulated box that speaks MD30: MQTT's packets, its subscriptions, and the index that the gateway tells.
"""

from __future__ import annotations

from math import inf
from random import Random
from typing import Final

from google.protobuf.message import DecodeError

from binaryserver.errors import MalformedPacket, ProtocolViolation
from binaryserver.mqtt.events import Broken, Puback, Publish
from binaryserver.mqtt.framing import Framing
from binaryserver.mqtt.packets import (
    DISCONNECT,
    PINGREQ,
    Connack,
    ConnectCode,
    Packet,
    Pingresp,
    Pubcomp,
    Pubrec,
    Suback,
    encodeConnect,
    encodePuback,
    encodePublish,
    encodeSubscribe,
)
from binaryserver.mqtt.parsers import FROM_SERVER
from binaryserver.proto.md30_pb2 import IndexNotice
from binaryserver.tools.box_client import Box
from binaryserver.tools.box_outbox import Outbox
from binaryserver.tools.box_plan import BoxPlan, BoxState, Owner, Resend
from binaryserver.tools.box_store import TrackStore
from binaryserver.tools.box_subscriptions import DOWNLINK_TOPIC, INDEX_TOPIC, Subscriptions
from binaryserver.tools.box_sums import Sums

MAX_PACKET: Final = 262_144
"""bytes: the largest packet that a box takes."""
POLL_INTERVAL: Final = 0.5
"""s between a box's questions for its index, at QoS 0."""


class Md30Box(Box):
    """
    See L{Box}.
    """

    _outbox: Outbox

    def __init__(
        self,
        asset: str,
        plan: BoxPlan,
        store: TrackStore,
        tracks: int,
        random: Random,
        sums: Sums,
        owner: Owner,
        wallOffset: float,
    ) -> None:
        Box.__init__(self, asset, plan, store, tracks, random, sums, owner, wallOffset)
        self._outbox = Outbox(asset, plan, store, tracks, random, sums, self._complain)
        self._subscriptions = Subscriptions(plan.indexFromGateway, plan.ack is not None)
        self._framing = Framing(FROM_SERVER, MAX_PACKET)
        self._connected = False
        self._pollAt = inf
        self._noticed = False

    # Box's side.

    def _greet(self, now: float) -> None:
        plan = self._plan
        self._go(BoxState.awaitingConnack, now)
        self._framing = Framing(FROM_SERVER, MAX_PACKET)
        self._noticed = False
        # At QoS 2 a session from before this run may hold packet ids as received, and would swallow new tracks.
        clean = plan.resend is Resend.NEW or (plan.qos == 2 and not self._connected)
        self._write(encodeConnect(self.asset, clean, plan.keepAlive, plan.account, plan.password), now)

    def _linkLost(self) -> None:
        self._outbox.linkLost()
        if self._plan.resend is Resend.NEW:
            self._outbox.forgetSession()
        elif self._plan.qos == 0:
            self._outbox.forgetUnconfirmed()

    def _sendSome(self, now: float) -> bool:
        data, more = self._outbox.take(now)
        self._write(data, now)
        return more

    def _resendOverdue(self, now: float) -> float:
        data, again = self._outbox.resendOverdue(now)
        self._write(data, now)
        return again

    def _tickProtocol(self, now: float) -> float:
        if self._plan.qos:
            return inf
        if now >= self._pollAt:
            self._pollAt = now + POLL_INTERVAL
            if self._outbox.unconfirmed:
                self._write(encodePublish(INDEX_TOPIC, b""), now)
        return self._pollAt

    def _pingBytes(self) -> bytes:
        return PINGREQ

    def _farewell(self) -> bytes:
        return DISCONNECT

    # Packets.

    def dataReceived(self, data: bytes, now: float) -> None:
        """
        See L{Box.dataReceived}.
        """
        for packet in self._framing.feed(data):
            if self._link is None:
                return
            if isinstance(packet, Puback):
                self._outbox.puback(packet.packetId, now)
            elif isinstance(packet, Broken):
                raise packet.error
            elif self.state is BoxState.awaitingConnack:
                self._connack(packet, now)
            elif isinstance(packet, Publish):
                self._publish(packet, now)
            elif isinstance(packet, Pubrec):
                self._write(self._outbox.pubrec(packet.packetId, now), now)
            elif isinstance(packet, Pubcomp):
                self._outbox.pubcomp(packet.packetId)
            elif isinstance(packet, Pingresp):
                self._keepAlive.answered()
                if self.state is BoxState.awaitingIndex:
                    self._resume(now)
            elif isinstance(packet, Suback) and self.state is BoxState.awaitingSuback:
                self._suback(packet, now)
            else:
                raise ProtocolViolation(f"a {type(packet).__name__} that a box in state {self.state.name} cannot take")
        self.fill(now)

    def _connack(self, packet: Packet, now: float) -> None:
        if not isinstance(packet, Connack):
            raise ProtocolViolation("the first packet is not a CONNACK", "MQTT-3.2.0-1")
        plan = self._plan
        if packet.code == ConnectCode.SERVER_UNAVAILABLE:
            self._giveUp("the gateway is not available")
            return
        if packet.code:
            self._refuse(f"refused: {ConnectCode(packet.code).name}", now)
            return
        self._sums.connects += 1
        if not packet.sessionPresent:
            self._outbox.forgetSession()
        elif plan.resend is Resend.NEW or (plan.qos == 2 and not self._connected):
            raise ProtocolViolation("a session is present after a CONNECT with CleanSession", "MQTT-3.2.2-1")
        self._connected = True
        filters = self._subscriptions.wanted(packet.sessionPresent)
        if filters:
            self._go(BoxState.awaitingSuback, now)
            self._write(encodeSubscribe(self._outbox.nextId(), filters), now)
        else:
            self._resume(now)

    def _suback(self, packet: Suback, now: float) -> None:
        refused = self._subscriptions.answered(packet.codes)
        if refused:
            self._refuse(f"refused: no subscription to {refused!r}", now)
            return
        if not self._subscriptions.wantsIndex:
            self._resume(now)
            return
        self._go(BoxState.awaitingIndex, now)
        if self._noticed:
            self._resume(now)
        else:
            # The notices come with the SUBACK, if there are any: so none is to come once this is answered.
            self._ping(now)

    def _publish(self, packet: Publish, now: float) -> None:
        if packet.qos == 2:
            raise ProtocolViolation("a PUBLISH of a QoS that was not granted", "MQTT-3.8.4-6")
        if self.state is BoxState.leaving:
            return  # nothing goes out behind a DISCONNECT [MQTT-3.14.4-2]
        if packet.topic in (DOWNLINK_TOPIC, f"boxes/{self.asset}/downlink") and not self._message(packet, now):
            return
        if packet.qos:
            self._write(encodePuback(packet.packetId), now)
        if packet.topic not in (INDEX_TOPIC, f"boxes/{self.asset}/index"):
            return
        try:
            notice = IndexNotice.FromString(packet.payload)
        except DecodeError as error:
            raise MalformedPacket("an index notice that is not an md30.v1.IndexNotice") from error
        if notice.stream != self.store.stream:
            return
        self._noticed = True
        self._outbox.notice(notice.last_index)
        if self.state is BoxState.awaitingIndex:
            self._resume(now)
        elif self.state is BoxState.open:
            self._outbox.applyMark(now)

    def _message(self, packet: Publish, now: float) -> bool:
        """
        @return: it is to be acked: the link is not cut on it
        """
        heard = self._inbox.receive(packet.payload, packet.dup, round((now + self._wallOffset) * 1000))
        if heard.answer is not None:
            self._outbox.answer(heard.answer)
        return self._hear(heard)

    def _resume(self, now: float) -> None:
        """
        The index is known as far as it is going to be: send what it leaves.
        """
        if not self._begin(now):
            return
        self._write(self._outbox.resume(now), now)
        if self._plan.resendAfter is not None:
            self._overdueAt = now + self._plan.resendAfter
        self._pollAt = now + POLL_INTERVAL
        self.fill(now)
