"""
A simulated box that speaks MD21: its header, TLS if it asks for it, base values, blocks, messages, and datagrams.
"""

from __future__ import annotations

from math import inf
from random import Random
from typing import Final

from binaryserver.errors import MalformedPacket, ProtocolViolation
from binaryserver.md21 import codec
from binaryserver.md21.datagrams import MAX_HELD, MAX_SENT, Arrival, DatagramSequence
from binaryserver.md21.framing import Framing, frame
from binaryserver.md21.values import (
    MAX_PDU,
    BaseValueAck,
    BaseValues,
    Capabilities,
    Disconnect,
    FileAck,
    FilePart,
    FileStart,
    FileStatus,
    Header,
    HeaderAck,
    HeaderStatus,
    Message,
    MessageAck,
    MessageStatus,
    Pdu,
    Ping,
    Reason,
    ReconfigureMsg,
    ReconfigureTrk,
    TrackingAck,
    Transport,
    UdpOffer,
)
from binaryserver.proto import md30_pb2
from binaryserver.tools.box_blocks import Blocks
from binaryserver.tools.box_client import ANSWER_TIMEOUT, Box
from binaryserver.tools.box_plan import BoxPlan, BoxState, DatagramLink, Md21Plan, Owner
from binaryserver.tools.box_store import TrackStore
from binaryserver.tools.box_sums import Sums

VERSION: Final = 1
"""Of the protocol, as the header names it."""
DEFAULT_ACCOUNT: Final = "dev"
"""A header has to name one."""
_REVISION: Final = 1
"""Of the box's base values, which do not change."""
_CHUNK: Final = 32
"""Blocks between two looks at whether the transport wants more."""
_CREDIT: Final = 1 << 30
"""bytes: a box may send as much as it likes."""
_TRY_LATER: Final = frozenset({HeaderStatus.SERVER_BUSY, HeaderStatus.SERVER_CLOSING})
_ANSWERS: Final = {
    md30_pb2.ACK_STATUS_OK: MessageStatus.ACK,
    md30_pb2.ACK_STATUS_NO_LISTENER: MessageStatus.BAD_CHANNEL,
    md30_pb2.ACK_STATUS_NOT_UNDERSTOOD: MessageStatus.NACK,
}

_GREETINGS: Final = (BoxState.awaitingTls, BoxState.awaitingHeaderack, BoxState.awaitingSecureHeaderack)


class Md21Box(Box):
    """
    See L{Box}. Tracks go by UDP where the box is to use it and the gateway offers it; all else goes by TCP but for what
    answers a datagram.
    """

    _outbox: Blocks

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
        self._md21 = plan.md21 or Md21Plan()
        self._outbox = Blocks(asset, plan, self._md21, store, tracks, random, sums, self._complain)
        self._framing = Framing(MAX_PDU)
        self._channels: dict[int, str] = {}
        self._reason = Reason.COLD_BOOT
        self._pings = 0
        self._unackedSince = inf
        self._isSecure = False
        self._offer: UdpOffer | None = None
        self._datagrams: DatagramLink | None = None
        self._sequence: DatagramSequence | None = None
        sums.messages.areAnswersAcked = False

    # Box's side.

    def dataReceived(self, data: bytes, now: float) -> None:
        """
        See L{Box.dataReceived}.
        """
        framing = self._framing
        octets = framing.feed(data)
        for position, pdu in enumerate(octets, 1):
            if self._link is None:
                return
            value = codec.decode(pdu)
            self._pduReceived(value, False, now)
            if self.state is BoxState.awaitingSecureHeaderack and not self._isSecure:
                if position < len(octets) or framing.held:
                    # Whoever is between the two could have written it; TLS would not undo that.
                    raise ProtocolViolation("bytes behind the answer to the wish for TLS")
                self._startTls(now)
        if framing.error is not None:
            raise framing.error
        self.fill(now)

    def _greet(self, now: float) -> None:
        self._framing = Framing(MAX_PDU)
        self._channels.clear()
        self._isSecure = False
        self._offer = self._sequence = None
        self._unackedSince = inf
        self._outbox.byDatagrams = False
        if self._md21.tls:
            self._go(BoxState.awaitingTls, now)
            # The secret waits until nobody else can read it.
            self._send(self._header(None, True), now)
        else:
            self._go(BoxState.awaitingHeaderack, now)
            self._send(self._header(self._plan.password, False), now)

    def _header(self, secret: bytes | None, tls: bool) -> Header:
        return Header(
            VERSION,
            self.asset,
            self._plan.account or DEFAULT_ACCOUNT,
            None if secret is None else secret.decode(),
            tls,
            self._reason,
            Capabilities(self._md21.udp, self._plan.ack is not None, False),
        )

    def _linkLost(self) -> None:
        self._reason = Reason.CONNECTION_LOST
        self._outbox.linkLost()

    def _linkEnded(self) -> None:
        datagrams, self._datagrams = self._datagrams, None
        if datagrams is not None:
            datagrams.close()

    def _sendSome(self, now: float) -> bool:
        sequence = self._sequence
        for _ in range(_CHUNK):
            if sequence is not None and not sequence.mayQueue(MAX_SENT):
                return False
            pdu = self._outbox.take(now)
            if pdu is None:
                return False
            self._sendBlock(pdu, now)
        return True

    def _sendBlock(self, pdu: bytes, now: float) -> bool:
        """
        @return: there was room for it
        """
        if self._sequence is None:
            self._write(frame(pdu), now)
            return True
        if not self._sequence.mayQueue(len(pdu)):
            return False
        self._sequence.queue(pdu)
        self._flushDatagrams(now)
        return True

    def _resendOverdue(self, now: float) -> float:
        return self._outbox.resendOverdue(now, lambda pdu: self._sendBlock(pdu, now))

    def _tickProtocol(self, now: float) -> float:
        self._flushDatagrams(now)
        if self._sequence is not None and self._sequence.isLost:
            self._giveUp("it does not ack datagrams")
        elif now >= self._unackedSince + ANSWER_TIMEOUT:
            self._giveUp(f"it did not ack the base values within {ANSWER_TIMEOUT:g} s")
        return self._unackedSince + ANSWER_TIMEOUT

    def _pingBytes(self) -> bytes:
        self._pings = self._pings % 0xFFFF + 1
        return frame(codec.encode(Ping(self._pings)))

    def _farewell(self) -> bytes:
        return frame(codec.encode(Disconnect(Reason.IDLE_OUT)))

    def _mayLeave(self) -> bool:
        return self._sequence is None or self._sequence.deadline() is None

    # PDUs.

    def _send(self, pdu: Pdu, now: float) -> None:
        self._write(frame(codec.encode(pdu)), now)

    def _reply(self, pdu: Pdu, byDatagram: bool, now: float) -> None:
        """
        Answer, the way that the question came if there is room.
        """
        if self._link is None:
            return
        octets = codec.encode(pdu)
        if byDatagram and self._sequence is not None and self._sequence.mayQueue(len(octets)):
            self._sequence.queue(octets)
        else:
            self._write(frame(octets), now)

    def _pduReceived(self, pdu: Pdu, byDatagram: bool, now: float) -> None:
        """
        @raise ProtocolViolation: it has no place here
        """
        state = self.state
        if isinstance(pdu, Disconnect):
            self._giveUp(f"the gateway says {pdu.reason.name}")
        elif isinstance(pdu, HeaderAck) and state in _GREETINGS:
            self._headerack(pdu, now)
        elif state is BoxState.leaving:
            pass  # nothing goes out behind a disconnect
        elif state not in (BoxState.open, BoxState.awaitingUdp):
            self._violate(pdu)
        elif isinstance(pdu, TrackingAck):
            self._outbox.acked(byDatagram, now)
        elif isinstance(pdu, Message):
            self._message(pdu, byDatagram, now)
        elif isinstance(pdu, Ping):
            if pdu.reply:
                self._keepAlive.answered()
            else:
                self._reply(Ping(pdu.number, True), byDatagram, now)
        elif isinstance(pdu, BaseValues):
            self._channels = {channel.number: channel.name for channel in pdu.channels}
            self._reply(BaseValueAck(pdu.revision), byDatagram, now)
        elif isinstance(pdu, BaseValueAck):
            self._unackedSince = inf
        elif isinstance(pdu, ReconfigureMsg):
            self._channels.update((channel.number, channel.name) for channel in pdu.channels)
        elif isinstance(pdu, ReconfigureTrk):
            # The pace of the tracks stays that of the command line.
            self._outbox.wantAck = pdu.wantAck
            self._overdueAt = self.due = now
        elif isinstance(pdu, FileStart | FilePart):
            # The header has said that the box takes none.
            self._reply(FileAck(pdu.fileId, 0, FileStatus.REFUSED), byDatagram, now)
        else:
            self._violate(pdu)

    def _violate(self, pdu: Pdu) -> None:
        raise ProtocolViolation(f"a {type(pdu).__name__} that a box in state {self.state.name} cannot take")

    def _headerack(self, pdu: HeaderAck, now: float) -> None:
        status = pdu.status
        if status in _TRY_LATER:
            self._giveUp(f"the gateway is not available: {status.name}")
        elif self.state is BoxState.awaitingTls and status is HeaderStatus.TLS_ACCEPTED:
            self._go(BoxState.awaitingSecureHeaderack, now)
        elif self.state is BoxState.awaitingTls and status is HeaderStatus.OK:
            self._refuse("refused: the gateway would go on without TLS", now)
        elif status is not HeaderStatus.OK:
            self._refuse(f"refused: {status.name}", now)
        else:
            self._sums.connects += 1
            if self._md21.udp and pdu.udp is not None:
                self._offer = pdu.udp
                self._go(BoxState.awaitingUdp, now)
                self._owner.openDatagrams(self, pdu.udp.host, pdu.udp.port)
            else:
                self._open(now)

    def _startTls(self, now: float) -> None:
        if self._link is not None:
            self._isSecure = True
            self._link.startTls()
            self._send(self._header(self._plan.password, False), now)

    def _open(self, now: float) -> None:
        """
        The gateway has taken the box.
        """
        if not self._begin(now):
            return
        self._send(BaseValues(_REVISION, (), self._outbox.wantAck, self._plan.keepAlive), now)
        self._unackedSince = now
        self._outbox.resume(now, lambda pdu: self._sendBlock(pdu, now))
        if self._plan.ackTimeout is None:
            self._overdueAt = now
        self.fill(now)

    def _message(self, pdu: Message, byDatagram: bool, now: float) -> None:
        """
        Ack it as the link does, and have the application answer if that is wanted: C{serverId} is what tells repeats.
        """
        status, number, serverId = MessageStatus.ACK, pdu.temporaryId, pdu.serverId
        channel = pdu.channelName or self._channels.get(pdu.channel)
        if channel is None or self._plan.ack is None:
            self._complain(f"a message for channel {channel or pdu.channel}, which the box does not have")
            self._reply(MessageAck(MessageStatus.BAD_CHANNEL, number, serverId), byDatagram, now)
            return
        message = md30_pb2.Message(
            id="" if serverId is None else str(serverId),
            channel=channel,
            payload=pdu.payload,
            recorded_at=pdu.recordedAt or 0,
            want_ack=pdu.wantAck,
            expires_at=pdu.expiresAt or 0,
        )
        heard = self._inbox.hear(message, False, round((now + self._wallOffset) * 1000))
        if not self._hear(heard):
            return
        self._reply(MessageAck(status, number, serverId), byDatagram, now)
        if heard.answer is not None:
            self._sums.messages.acks += 1
            status = _ANSWERS[heard.answer.message.ack_status]
            self._reply(MessageAck(status, number, serverId, True), byDatagram, now)

    # Datagrams.

    def datagramsUp(self, link: DatagramLink, now: float) -> None:
        """
        See L{Box.datagramsUp}.
        """
        if self.state is not BoxState.awaitingUdp or self._link is None or self._offer is None:
            link.close()
            return
        self._sums.udpLinks += 1
        self._datagrams = link
        self._sequence = DatagramSequence(self._offer.token)
        self._outbox.byDatagrams = True
        self._open(now)

    def datagramsFailed(self, reason: str, now: float) -> None:
        """
        See L{Box.datagramsFailed}: tracks go by TCP then.
        """
        self._complain(f"no way for datagrams: {reason}")
        if self.state is BoxState.awaitingUdp and self._link is not None:
            self._open(now)

    def datagramReceived(self, data: bytes, now: float) -> None:
        """
        See L{Box.datagramReceived}.
        """
        sequence = self._sequence
        if sequence is None or self._link is None or self._losesDatagram():
            return
        try:
            datagram = codec.decode(data)
        except MalformedPacket:
            datagram = None
        if not isinstance(datagram, Transport) or self._offer is None or datagram.token != self._offer.token:
            # Anybody can have sent it.
            self._sums.badDatagrams += 1
            return
        sequence.acked(datagram.acks)
        if datagram.pdu is not None:
            arrival = sequence.judge(datagram.sequence, len(datagram.pdu), MAX_HELD, now)
            if arrival is Arrival.fresh:
                sequence.take(datagram.sequence, datagram.pdu, now)
            while self._link is not None and (octets := sequence.give()) is not None:
                self._pduReceived(codec.decode(octets), True, now)
        self._flushDatagrams(now)
        self.fill(now)

    def _flushDatagrams(self, now: float) -> None:
        sequence, link = self._sequence, self._datagrams
        if sequence is None or link is None:
            return
        resent = sequence.resent
        for datagram in sequence.output(now, _CREDIT):
            if not self._losesDatagram():
                link.send(datagram)
        self._sums.datagramsResent += sequence.resent - resent
        due = sequence.deadline()
        if sequence.isLost:
            self.due = now
        elif due is not None:
            self.due = min(self.due, due)

    def _losesDatagram(self) -> bool:
        share = self._md21.loseDatagrams
        isLost = bool(share) and self._random.random() < share
        self._sums.datagramsLost += isLost
        return isLost
