"""
A simulated box: what it does with its link. No bytes are taken apart here and no transport is touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from random import Random
from typing import Final

from google.protobuf.message import DecodeError

from binaryserver.errors import MalformedPacket, PeerError, ProtocolViolation
from binaryserver.mqtt.events import Broken, Puback, Publish
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
from binaryserver.proto.md30_pb2 import IndexNotice
from binaryserver.tools.box_inbox import AckChoice, Inbox
from binaryserver.tools.box_outbox import Outbox
from binaryserver.tools.box_plan import NEXT, BoxPlan, BoxState, Link, Owner, Resend, WrongState
from binaryserver.tools.box_store import TrackStore
from binaryserver.tools.box_subscriptions import DOWNLINK_TOPIC, INDEX_TOPIC, Subscriptions
from binaryserver.tools.box_sums import Sums
from binaryserver.tools.box_timing import Backoff, KeepAlive

ANSWER_TIMEOUT: Final = 30.0
"""s that a box waits for a CONNACK, a SUBACK or an index, and for the end of a link that it leaves."""
POLL_INTERVAL: Final = 0.5
"""s between a box's questions for its index, at QoS 0."""


class Box:
    """
    One box. Times (C{now}) are seconds of the fleet's clock.

    @ivar state: what it waits for
    @ivar due: s of the clock: C{tick} has nothing to do before
    """

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
        """
        @param tracks: how many it records in this run; what waits in C{store} comes before
        @param wallOffset: s, what C{now} lacks to Unix time
        """
        self.asset = asset
        self.store = store
        self.state = BoxState.waiting
        self.due = 0.0
        self._plan = plan
        self._random = random
        self._sums = sums
        self._owner = owner
        self._wallOffset = wallOffset
        self._outbox = Outbox(asset, plan, store, tracks, random, sums, self._complain)
        self._inbox = Inbox(plan.ack or AckChoice.NONE, random, sums.messages)
        self._link: Link | None = None
        self._subscriptions = Subscriptions(plan.indexFromGateway, plan.ack is not None)
        self._connectAt = 0.0
        self._stayUntil = 0.0
        self._since = 0.0
        self._cutAt = inf
        self._gaveUp = ""
        self._backoff = Backoff(plan.reconnectDelay, random)
        self._connected = False
        self._keepAlive = KeepAlive(plan.keepAlive)
        self._overdueAt = self._pollAt = inf
        self._noticed = False
        sums.boxes += 1
        sums.tracks += tracks + store.waiting

    def connectAt(self, when: float, stayUntil: float) -> None:
        """
        Set the time of the first connect, and that before which the box does not leave, whatever is acked.
        """
        self._connectAt = self.due = when
        self._stayUntil = stayUntil

    def _go(self, state: BoxState, now: float) -> None:
        if state not in NEXT[self.state]:
            raise WrongState(f"a box cannot go from {self.state.name} to {state.name}")
        self.state = state
        self._since = now
        self.due = now

    # What the fleet and the link tell.

    def linkUp(self, link: Link, now: float) -> None:
        """
        There is a link.
        """
        plan = self._plan
        self._go(BoxState.awaitingConnack, now)
        self._link = link
        self._keepAlive.linkUp()
        self._noticed = False
        self._gaveUp = ""
        self._cutAt = now + self._random.expovariate(1 / plan.cutEvery) if plan.cutEvery else inf
        # At QoS 2 a session from before this run may hold packet ids as received, and would swallow new tracks.
        clean = plan.resend is Resend.NEW or (plan.qos == 2 and not self._connected)
        self._write(encodeConnect(self.asset, clean, plan.keepAlive, plan.account, plan.password), now)

    def linkFailed(self, reason: str, now: float) -> None:
        """
        There will be no link.
        """
        if self.state is BoxState.connecting:
            self._sums.failedConnects += 1
            self._complain(f"cannot connect: {reason}")
            self._wait(now, failed=True)

    def linkDown(self, reason: str, now: float) -> None:
        """
        The link is gone.
        """
        self._link = None
        state = self.state
        if state is BoxState.leaving:
            self._end(BoxState.done, now)
        elif state not in (BoxState.refused, BoxState.stopped):
            if self._cutAt > -inf:
                self._sums.lostLinks += 1
                self._complain(f"lost the link while waiting for {state.value}: {self._gaveUp or reason}")
            self._outbox.linkLost()
            if self._plan.resend is Resend.NEW:
                self._outbox.forgetSession()
            elif self._plan.qos == 0:
                self._outbox.forgetUnconfirmed()
            self._owner.keepBox(self)
            self._wait(now, failed=state is not BoxState.open and self._cutAt > -inf)

    def peerBroke(self, error: PeerError, now: float) -> None:
        """
        The gateway broke MQTT.
        """
        self._sums.peerErrors += 1
        self._giveUp(f"the gateway broke the protocol: {error}")

    def leave(self, now: float) -> None:
        """
        Stay no longer than it takes until all is acked.
        """
        self._stayUntil = now
        self.due = min(self.due, now)

    def stop(self, now: float) -> None:
        """
        Do no more; leave at once.
        """
        if self.state in (BoxState.done, BoxState.refused, BoxState.stopped):
            return
        self._go(BoxState.stopped, now)
        self._cut()
        self._owner.keepBox(self)

    def _wait(self, now: float, failed: bool) -> None:
        self._go(BoxState.waiting, now)
        self._connectAt = now + self._backoff.lost(failed)

    def _end(self, state: BoxState, now: float) -> None:
        self._go(state, now)
        self._owner.keepBox(self)
        self._owner.boxEnded(self)

    def _refuse(self, text: str, now: float) -> None:
        self._sums.refused += 1
        self._complain(text)
        self._cut()
        self._end(BoxState.refused, now)

    def _cutAsPlanned(self) -> None:
        """
        End the link as the plan has it: no person needs to hear of it, and it is not counted as lost.
        """
        self._cutAt = -inf
        self._cut()

    def _giveUp(self, why: str) -> None:
        """
        End the link: the gateway is to blame.
        """
        self._gaveUp = why
        self._cut()

    def _cut(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.cut()

    def _write(self, data: bytes, now: float) -> None:
        if data and self._link is not None:
            self._keepAlive.sent(now)
            self._link.send(data)

    def _complain(self, text: str) -> None:
        self._owner.complain(self, text)

    def tick(self, now: float) -> None:
        """
        Do what is due by the clock, and say in L{due} when there is more.
        """
        state = self.state
        self.due = inf
        if state is BoxState.waiting:
            if self._outbox.empty and now >= self._stayUntil:
                self._end(BoxState.done, now)
            elif now >= self._connectAt:
                self._go(BoxState.connecting, now)
                self.due = inf
                self._owner.connectBox(self)
            else:
                self.due = min(self._connectAt, self._stayUntil if self._outbox.empty else inf)
        elif self._link is None:
            return
        elif now >= self._cutAt and state is not BoxState.leaving:
            self._sums.cuts += 1
            self._cutAsPlanned()
        elif state is BoxState.open:
            self._tickOpen(now)
        elif now >= self._since + ANSWER_TIMEOUT:
            self._giveUp(f"it did not come within {ANSWER_TIMEOUT:g} s")
        else:
            self.due = min(self._cutAt, self._since + ANSWER_TIMEOUT)

    def _tickOpen(self, now: float) -> None:
        plan = self._plan
        keepAlive = self._keepAlive
        if keepAlive.isOverdue(now):
            self._giveUp(f"no PINGRESP within {keepAlive.timeout:g} s")
            return
        if plan.ackTimeout is not None and now >= self._overdueAt:
            self._overdueAt = self._outbox.oldestSent(now) + plan.ackTimeout
            if now >= self._overdueAt:
                self._sums.ackTimeouts += 1
                self._cutAsPlanned()
                return
        if plan.resendAfter is not None and now >= self._overdueAt:
            data, self._overdueAt = self._outbox.resendOverdue(now, plan.resendAfter)
            self._write(data, now)
        if plan.qos == 0 and now >= self._pollAt:
            self._pollAt = now + POLL_INTERVAL
            if self._outbox.unconfirmed:
                self._write(encodePublish(INDEX_TOPIC, b""), now)
        self.fill(now)
        if keepAlive.isDue(now):
            self._ping(now)
        if self.state is BoxState.open:
            self.due = min(
                self._cutAt,
                self._overdueAt,
                self._pollAt if plan.qos == 0 else inf,
                self._outbox.recordedAt(),
                self._stayUntil if self._stayUntil > now else inf,
                keepAlive.next,
            )

    def _ping(self, now: float) -> None:
        self._write(PINGREQ, now)
        self._keepAlive.asked(now)

    def fill(self, now: float) -> None:
        """
        Send what may be sent; leave when all is acked, unless it is to stay.
        """
        link = self._link
        if link is None or self.state is not BoxState.open:
            return
        more = True
        while more and not link.paused:
            data, more = self._outbox.take(now)
            self._write(data, now)
        if self._outbox.empty and now >= self._stayUntil:
            self._go(BoxState.leaving, now)
            self._write(DISCONNECT, now)
            link.leave()

    # Packets.

    def packetsReceived(self, packets: Sequence[Packet | Broken], now: float) -> None:
        """
        The gateway sent packets; L{Broken} stands for what is none.

        @raise PeerError: it broke MQTT
        """
        for packet in packets:
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
                    self._begin(now)
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
            self._begin(now)

    def _suback(self, packet: Suback, now: float) -> None:
        refused = self._subscriptions.answered(packet.codes)
        if refused:
            self._refuse(f"refused: no subscription to {refused!r}", now)
            return
        if not self._subscriptions.wantsIndex:
            self._begin(now)
            return
        self._go(BoxState.awaitingIndex, now)
        if self._noticed:
            self._begin(now)
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
            self._begin(now)
        elif self.state is BoxState.open:
            self._outbox.applyMark(now)

    def _message(self, packet: Publish, now: float) -> bool:
        """
        @return: it is to be acked: the link is not cut on it
        """
        heard = self._inbox.receive(packet.payload, packet.dup, round((now + self._wallOffset) * 1000))
        if heard.isNew:
            self._owner.messageHeard(self, heard)
        if heard.answer is not None:
            self._outbox.answer(heard.answer)
        # Not on a repeat: a box that was sent much would never get on.
        if not heard.isNew or not self._plan.cutOnMessage or self._random.random() >= self._plan.cutOnMessage:
            return True
        self._sums.cuts += 1
        self._cutAsPlanned()
        return False

    def _begin(self, now: float) -> None:
        """
        The index is known as far as it is going to be: send what it leaves.
        """
        self._go(BoxState.open, now)
        if not self._outbox.recorded:
            self._outbox.record(now, self._wallOffset)
            self._owner.keepBox(self)
            if self._link is None:
                return  # they could not be kept
        self._write(self._outbox.resume(now), now)
        after = self._plan.ackTimeout or self._plan.resendAfter
        self._overdueAt = inf if after is None else now + after
        self._pollAt = now + POLL_INTERVAL
        self._backoff.succeeded()
        self.fill(now)
