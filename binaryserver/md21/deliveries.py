"""
Messages to an MD21 box: how they are sent, and what the box says of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from twisted.logger import Logger
from twisted.python.failure import Failure

from binaryserver.md21 import values
from binaryserver.md21.codec import encode
from binaryserver.md21.connection import Connection
from binaryserver.md21.values import MessageStatus
from binaryserver.model import DownlinkMessage, Final, FinalStatus, MailboxEntry
from binaryserver.proto import md30_pb2
from binaryserver.session.line import Pause
from binaryserver.session.reasons import Ending, Reason
from binaryserver.session.transportlink import TransportLink

if TYPE_CHECKING:
    from binaryserver.gateway import Gateway
    from binaryserver.md21.udpway import UdpWay

_MAX_KNOWN = 256
"""Messages to the box whose application may still answer, and which are known without asking the session store."""

_ANSWERS = {
    MessageStatus.ACK: md30_pb2.ACK_STATUS_OK,
    MessageStatus.NACK: md30_pb2.ACK_STATUS_NOT_UNDERSTOOD,
    MessageStatus.BAD_CHANNEL: md30_pb2.ACK_STATUS_NO_LISTENER,
}
_REFUSED = {
    MessageStatus.NACK: "NOT_UNDERSTOOD",
    MessageStatus.BAD_CHANNEL: "NO_LISTENER",
}


class _Sent(NamedTuple):
    """
    A message that was sent to the box over this link.
    """

    id: str
    channel: str


def serverId(messageId: str) -> int:
    """
    The 64 bits by which a box knows a message of the cloud, over all of its links.
    """
    return int.from_bytes(blake2b(messageId.encode(), digest_size=8).digest(), "big")


def _keep(known: dict[int, _Sent], number: int, sent: _Sent) -> None:
    """
    Add a message, and forget the oldest where there are too many.
    """
    known[number] = sent
    if len(known) > _MAX_KNOWN:
        del known[next(iter(known))]


class Deliveries(TransportLink):
    """
    The half of an MD21 link that is about them. Subclassed by the other.
    """

    log = Logger()
    _connection: Connection

    def __init__(self, gateway: Gateway) -> None:
        TransportLink.__init__(self, gateway)
        self._capabilities = values.Capabilities()
        self._way: UdpWay | None = None
        # What the box was sent over this link and has not acked, by its temporary ids; and that of which an application
        # may still answer, by the server's id and by the temporary one.
        self._sent: dict[int, _Sent] = {}
        self._known: dict[int, _Sent] = {}
        self._knownHere: dict[int, _Sent] = {}

    def sendPdu(self, pdu: values.Pdu) -> None:
        """
        Send a PDU to the box: a message or its ack by datagram, as long as the box is heard that way; all else by the
        stream, with the next L{flushOutput}.
        """
        way = self._way
        mayGo = way is not None and way.isReachable and isinstance(pdu, (values.Message, values.MessageAck))
        if not (mayGo and way is not None and way.send(encode(pdu))):
            self._connection.send(pdu)

    def deliver(self, message: DownlinkMessage, packetId: int, isRepeated: bool) -> None:
        """
        See L{BoxLink.deliver}. That the box may have had it is for the box to see, by the server's id.
        """
        sent = self._sent[packetId] = _Sent(message.id, message.channel)
        if len(message.payload) > values.MAX_PAYLOAD:
            self._refuseMessage(packetId, "MESSAGE_TOO_LARGE")
            return
        number = serverId(message.id)
        if message.wantAck:
            _keep(self._known, number, sent)
            _keep(self._knownHere, packetId, sent)
        channel = self._channelNumber(message.channel)
        self._connection.awaitAck(packetId, self.gateway.clock.seconds())
        self.sendPdu(
            values.Message(
                packetId,
                channel,
                None if channel else message.channel,
                message.payload,
                message.queuedAt,
                message.expiresAt,
                number,
                message.wantAck,
            )
        )

    def _channelNumber(self, name: str) -> int:
        """
        What a channel is called in a message to the box: a number of its table, which is announced to a box that
        understands it; else 0.
        """
        channels = self._connection.channels
        number = channels.number(name)
        if number or not self._capabilities.dynamicChannels:
            return number
        if self._way is not None:
            # A datagram may be there before what the stream announces.
            return 0
        channel = channels.assign(name)
        if channel is None:
            return 0
        self.sendPdu(values.ReconfigureMsg((channel,)))
        return channel.number

    def delivered(self) -> None:
        """
        See L{BoxLink.delivered}.
        """
        self.flushOutput()

    # What the box says of messages to it.

    def takeMessageAck(self, ack: values.MessageAck) -> int:
        """
        Take what the box says of a message.

        @return: 0: it is to be brought again when the link resumes
        """
        if ack.application:
            return self._applicationAnswered(ack)
        if ack.status in _REFUSED:
            self._refuseMessage(ack.temporaryId, _REFUSED[ack.status])
        else:
            self._acked(ack.temporaryId)
        return 1

    def _acked(self, temporaryId: int) -> None:
        self._sent.pop(temporaryId, None)
        self.gateway.delivery.acked(self, temporaryId)

    def _refuseMessage(self, temporaryId: int, why: str) -> None:
        sent = self._sent.get(temporaryId)
        if sent is not None:
            # Before the ack, with which one that waits for nobody's answer would be delivered.
            final = Final(FinalStatus.refused, why, self.gateway.nowMs())
            self.gateway.delivery.answered(self.box.key, sent.id, final)
        self._acked(temporaryId)

    def _applicationAnswered(self, ack: values.MessageAck) -> int:
        """
        Take the answer of the box's application as MD30's is taken: a message of the box, which says what it answers.
        """
        sent = self._knownHere.get(ack.temporaryId) if ack.serverId is None else self._known.get(ack.serverId)
        if sent is None:
            if ack.serverId is not None:
                self._lookUp(ack)
            return 1
        answer = md30_pb2.Message(channel=sent.channel, ack_of=sent.id, ack_status=_ANSWERS[ack.status])
        return int(self.takeMessage("md21:message", answer.SerializeToString(), 0, 0))

    def _lookUp(self, ack: values.MessageAck) -> None:
        """
        Find the message of an answer that was sent over an earlier link: in the mailbox, where it stays until then. The
        link is not read meanwhile; nor for longer, if it comes with many of them.
        """
        self.pause(Pause.asking)
        self._countControls(1)
        found = self.gateway.store.mailbox(self.box.key)
        found.addCallbacks(self._lookedUp, self._notLookedUp, callbackArgs=(ack,)).addErrback(self._failedAtAnswer)

    def _lookedUp(self, entries: Sequence[MailboxEntry], ack: values.MessageAck) -> None:
        if self._ending is not None:
            return
        for entry in entries:
            if ack.serverId is not None and serverId(entry.message.id) == ack.serverId:
                _keep(self._known, ack.serverId, _Sent(entry.message.id, entry.message.channel))
                self._held.insert(0, ack)
                break
        self.resume(Pause.asking)

    def _notLookedUp(self, failure: Failure) -> None:
        self.log.warn("session store did not give a mailbox: {reason}", reason=failure.getErrorMessage())
        self.end(Ending(Reason.socketClosed, "the session store did not say what its application answered"))

    def _failedAtAnswer(self, failure: Failure) -> None:
        self.log.failure("an application's answer failed in an unforeseen way", failure)
        self.end(Ending(Reason.networkError, "it failed in an unforeseen way"))
