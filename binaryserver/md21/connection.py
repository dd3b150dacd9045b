"""
The server's side of one MD21 link, without the link: bytes and times come in, events and bytes go out.

The owner moves the bytes, keeps the clock, and decides what the events ask of it: whether a header is accepted or TLS
started, when a block is committed and so may be acked. What the protocol leaves no choice about is done here: order,
pings, base values, the table of channels, the parts of files, and the times.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, cast

from binaryserver.errors import MalformedPacket, MissingTransition, PeerError, PeerTimeout, ProtocolViolation
from binaryserver.md21 import values
from binaryserver.md21.channels import Channels
from binaryserver.md21.codec import decode, encode
from binaryserver.md21.events import Block, BoxMessage, Broken, Event
from binaryserver.md21.files import FileReceived, FileReceiver
from binaryserver.md21.framing import Framing, frame
from binaryserver.md21.states import TRANSITIONS, ConnectionState, Input
from binaryserver.md21.timers import Due, Timeouts, Timers
from binaryserver.md21.values import Reason

MAX_HEADER: Final = 2048
"""Bytes; the largest header, with room for what later versions add: nobody knows yet who sends it."""

PART_ROOM: Final = values.MAX_PART + 256
"""Bytes that count beside a file for the part of it that is under way."""

MAX_AT_ONCE: Final = 256
"""PDUs that are dealt with here, and that one read may bring: what has no window must not keep the others waiting."""

_PING_NUMBERS: Final = 0x10000
_MAX_PING_INTERVAL: Final = 0xFFFF

_REVISION: Final = 1
"""Of our base values, which do not change while a link lasts."""


class Connection:
    """
    One link. Nothing here raises for what the box sent; L{Broken} is always the last event.

    Sending to a closed connection does nothing, since commits may come back after the link has gone.

    @ivar state: L{ConnectionState}
    @ivar isSecure: TLS was started on the link
    @ivar channels: the numbers of channels
    @ivar controls: pings that came, and what else no window bounds: acks of nothing, refused files, parts of a file
        that did not wait for the ack of the one before; its owner sets it back
    """

    __slots__ = (
        "_capabilities",
        "_files",
        "_framing",
        "_maxPdu",
        "_out",
        "_pings",
        "_timers",
        "channels",
        "controls",
        "isSecure",
        "state",
    )

    def __init__(self, now: float, maxPdu: int, maxFile: int, timeouts: Timeouts) -> None:
        """
        @param now: s, of any clock that never goes back; all other times are of it
        @param maxPdu: bytes, the largest PDU that is taken; a header may have L{MAX_HEADER} at most
        @param maxFile: bytes, the largest file that is taken
        """
        self.state = ConnectionState.awaitingHeader
        self.isSecure = False
        self.channels = Channels()
        self.controls = 0
        self._capabilities = values.Capabilities()
        self._maxPdu = maxPdu
        self._framing = Framing(min(maxPdu, MAX_HEADER))
        self._files = FileReceiver(maxFile)
        self._timers = Timers(timeouts, now)
        self._pings = 0
        self._out: list[bytes] = []

    @property
    def partialSize(self) -> int:
        """
        Bytes of what is not whole yet, those to come included: a PDU, and the file under way.
        """
        framing = self._framing
        partial = framing.held if framing.isHeld else framing.partialSize
        size = self._files.size
        # One number for the whole of a file, whichever of its parts is under way.
        return size + max(partial, PART_ROOM) if size else partial

    # What the box sends.

    def receiveData(self, data: bytes, now: float) -> list[Event]:
        """
        Take what one read brought. What comes behind a header, before L{accept}, is kept unread.

        @return: in the order of the PDUs; L{Broken} or L{Disconnect} at most as the last one
        """
        self._timers.seenAt = now
        state, framing = self.state, self._framing
        if state is ConnectionState.open:
            return self._take(framing.feed(data), now)
        if state is ConnectionState.awaitingHeader:
            pdus = framing.feed(data, 1)
            if framing.error is not None:
                return [self._fail(framing.error)]
            return [self._header(pdus[0])] if pdus else []
        if state is ConnectionState.awaitingDecision:
            framing.feed(data)
            return [] if framing.error is None else [self._fail(framing.error)]
        if state is ConnectionState.awaitingTls:
            return [self._fail(ProtocolViolation("plaintext where TLS was to start"))]
        return []

    def receiveDatagram(self, pdu: values.Pdu, octets: bytes, now: float) -> list[Event]:
        """
        Take a PDU that came by datagram: each once, and in the order in which the box made them, since no ack names
        what it answers.

        @param octets: the PDU as it came
        @return: as L{receiveData}; nothing, if the link is not open
        """
        if self.state is not ConnectionState.open:
            return []
        self._timers.heard(now)
        if type(pdu) is values.TrackingData:
            return [Block(pdu, octets, True)]
        event = self._event(pdu)
        return [] if event is None else [event]

    def accept(self, udp: values.UdpOffer | None, now: float) -> list[Event]:
        """
        Answer the header with C{ok} and our base values, and read what came after it.

        @param udp: where the box may send datagrams
        @return: as L{receiveData}
        @raise MissingTransition: there is no header to accept
        """
        self._go(Input.accept)
        self.send(values.HeaderAck(values.HeaderStatus.OK, udp))
        timers = self._timers
        timers.heard(now)
        timers.sentBaseValues(now)
        ping = min(int(timers.timeouts.activity / 2), _MAX_PING_INTERVAL)
        self.send(values.BaseValues(_REVISION, (), values.WantAck.ALL_60, ping))
        self._framing.isHeld = False
        self._framing.maxPdu = self._maxPdu
        return self._take(self._framing.feed(b""), timers.seenAt)

    def refuse(self, status: values.HeaderStatus) -> None:
        """
        Answer the header with a refusal; what came after it is never read.

        @raise MissingTransition: there is no header to refuse
        """
        self._queue(values.HeaderAck(status))
        self._go(Input.refuse)

    def startTls(self, now: float) -> Broken | None:
        """
        Answer the header with C{tlsAccepted}: the owner starts TLS behind the bytes that are queued now, before it
        reads any more.

        @return: L{Broken}, and nothing is queued, if anything came behind the header: it was not protected, and would
            be taken for what is (CVE-2011-0411)
        @raise MissingTransition: there is no header to answer
        """
        if self._framing.held:
            return self._fail(ProtocolViolation("plaintext behind the header that asked for TLS"))
        self._go(Input.startTls)
        self._timers.heard(now)
        self._queue(values.HeaderAck(values.HeaderStatus.TLS_ACCEPTED))
        return None

    def secured(self, now: float) -> None:
        """
        The TLS handshake is done: a new header comes, and nothing that was said before counts.

        @raise MissingTransition: no TLS was started
        """
        self._go(Input.secured)
        self.isSecure = True
        self._timers.seenAt = now
        self._timers.heard(now)
        self._framing = Framing(min(self._maxPdu, MAX_HEADER))

    # What the box is sent.

    def send(self, pdu: values.Pdu) -> None:
        """
        Queue a PDU.

        @raise ValueError: it cannot hold its values
        """
        if self.state is not ConnectionState.closed:
            self._queue(pdu)

    def awaitAck(self, temporaryId: int, now: float) -> None:
        """
        A message was sent, by whatever way: the box is late once it has not acked it in time.
        """
        self._timers.sentMessage(temporaryId, now)

    def disconnect(self, reason: Reason) -> None:
        """
        Tell the box that the link ends, if it is open; nothing is taken or sent after that.
        """
        if self.state is ConnectionState.open:
            self._queue(values.Disconnect(reason))
            self._go(Input.close)

    def dataToSend(self) -> bytes:
        """
        Give what is queued for the box, once. May be asked for after the connection broke or was refused: what was
        queued until then still goes out.
        """
        out = self._out
        if not out:
            return b""
        self._out = []
        return out[0] if len(out) == 1 else b"".join(out)

    def close(self) -> None:
        """
        The link is gone or going: drop what is held and queued; later reads give nothing.
        """
        self._go(Input.close)
        self._out = []

    # Time.

    def deadline(self) -> float | None:
        """
        When L{timeout} is due; L{None}: not before something else happens.
        """
        due = self._due()
        return None if due is None else due[0]

    def timeout(self, now: float) -> Broken | None:
        """
        Do what is due: break the connection if the box is late, ping it, or give up its file.

        @return: L{None} when it is not late
        """
        while True:
            due = self._due()
            if due is None or now < due[0]:
                return None
            what = due[1]
            if what.reason is not None:
                return self._fail(PeerTimeout(what.text), what.reason)
            if what is Due.ping:
                self._timers.hasPinged = True
                self._pings = (self._pings + 1) % _PING_NUMBERS
                self.send(values.Ping(self._pings))
            else:
                self._timers.file(False, now)
                ack = self._files.expire()
                if ack is not None:
                    self.send(ack)

    def suspend(self) -> None:
        """
        Nothing is read from the box for now, so that it cannot be late: L{deadline} gives L{None} until L{resume}.
        """
        self._timers.suspend()

    def resume(self, now: float) -> None:
        """
        The box is read again: each timer has as much left as when it was suspended.
        """
        self._timers.resume(now)

    def _due(self) -> tuple[float, Due] | None:
        timers = self._timers
        if self.state is ConnectionState.open:
            return timers.due()
        if self.state is ConnectionState.awaitingHeader:
            return timers.dueAfter(Due.header, timers.timeouts.header)
        if self.state is ConnectionState.awaitingTls:
            return timers.dueAfter(Due.handshake, timers.timeouts.handshake)
        return None

    # PDUs.

    def _header(self, pdu: bytes) -> Event:
        try:
            header = decode(pdu)
        except MalformedPacket as error:
            return self._fail(error)
        if not isinstance(header, values.Header):
            return self._fail(ProtocolViolation(f"{_named(header)} before the header"))
        self._capabilities = header.capabilities
        self._framing.isHeld = True
        self._go(Input.header)
        return header

    def _take(self, pdus: list[bytes], now: float) -> list[Event]:
        """
        Turn what the framing gave on an open connection into events, and note the time.
        """
        framing, timers = self._framing, self._timers
        if pdus:
            timers.heard(now)
            timers.started(False, now)
        timers.started(framing.held > 0, now)
        events = self._events(pdus)
        if framing.error is not None and self.state is ConnectionState.open:
            events.append(self._fail(framing.error))
        return events

    def _events(self, pdus: list[bytes]) -> list[Event]:
        events: list[Event] = []
        share = MAX_AT_ONCE
        parts = 0
        for pdu in pdus:
            try:
                value = decode(pdu)
            except MalformedPacket as error:
                # Without its traceback, whose frames hold the box's bytes.
                events.append(self._fail(error.with_traceback(None)))
                break
            if type(value) is values.TrackingData:
                events.append(Block(value, pdu))
                continue
            event = self._event(value)
            if type(value) is values.FilePart:
                self.controls += parts > 0
                parts += 1
            elif event is None:
                share -= 1
                if not share:
                    event = self._fail(ProtocolViolation("a flood of PDUs that are answered at once"))
            if event is not None:
                events.append(event)
                if self.state is not ConnectionState.open:
                    break
        return events

    def _event(self, pdu: values.Pdu) -> Event | None:
        take = _TAKERS.get(type(pdu))
        if take is None:
            return self._fail(ProtocolViolation(f"{_named(pdu)} where it is not allowed"))
        return take(self, pdu)

    def _disconnect(self, disconnect: values.Disconnect) -> Event:
        self._go(Input.disconnect)
        return disconnect

    def _ping(self, ping: values.Ping) -> None:
        if not ping.reply:
            self.controls += 1
            self.send(values.Ping(ping.number, True))

    def _takeBaseValues(self, taken: values.BaseValues) -> None:
        self.channels.replace(taken.channels)
        self._timers.pings(taken.pingInterval)
        self.send(values.BaseValueAck(taken.revision))

    def _takeBaseValueAck(self, ack: values.BaseValueAck) -> None:
        if ack.revision == _REVISION:
            self._timers.ackedBaseValues()

    def _message(self, message: values.Message) -> Event:
        if not message.channel:
            return BoxMessage(message, message.channelName or "")
        name = self.channels.name(message.channel)
        if name is not None:
            return BoxMessage(message, name)
        error = ProtocolViolation(f"a message on channel {message.channel}, which was not announced")
        isDynamic = self._capabilities.dynamicChannels
        return self._fail(error, Reason.UNKNOWN_DYNAMIC_CHANNEL if isDynamic else Reason.UNKNOWN_CHANNEL)

    def _messageAck(self, ack: values.MessageAck) -> Event:
        if not self._timers.ackedMessage(ack.temporaryId) and not ack.application:
            self.controls += 1
        return ack

    def _reconfigure(self, reconfigure: values.ReconfigureMsg) -> None:
        self.channels.change(reconfigure.channels)

    def _fileStart(self, start: values.FileStart) -> Event | None:
        hadNone = not self._files.size
        outcome = self._file(self._files.start(start))
        if hadNone and self._files.size:
            self._timers.file(True, self._timers.seenAt)
        return outcome

    def _filePart(self, part: values.FilePart) -> Event | None:
        return self._file(self._files.part(part))

    def _file(self, outcome: values.FileAck | FileReceived) -> Event | None:
        if not self._files.size:
            self._timers.file(False, self._timers.seenAt)
        if isinstance(outcome, FileReceived):
            return outcome
        self.controls += outcome.status is not values.FileStatus.OK
        self.send(outcome)
        return None

    # State.

    def _fail(self, error: PeerError, reason: Reason = Reason.PROTOCOL_ERROR) -> Broken:
        if self.state is ConnectionState.open:
            self._queue(values.Disconnect(reason))
        self._go(Input.fail)
        return Broken(error, reason)

    def _go(self, event: Input) -> None:
        state = TRANSITIONS.get((self.state, event))
        if state is None:
            raise MissingTransition(f"{event.value}, while {self.state.value} was awaited")
        self.state = state
        if state is ConnectionState.closed:
            self._framing.drop()
            self._files.drop()

    def _queue(self, pdu: values.Pdu) -> None:
        self._out.append(frame(encode(pdu)))


def _named(pdu: values.Pdu) -> str:
    return type(pdu).__name__


_Taker = Callable[[Connection, values.Pdu], Event | None]

_TAKERS: Final = cast(
    "dict[type, _Taker]",
    {
        values.Disconnect: Connection._disconnect,
        values.Ping: Connection._ping,
        values.BaseValues: Connection._takeBaseValues,
        values.BaseValueAck: Connection._takeBaseValueAck,
        values.Message: Connection._message,
        values.MessageAck: Connection._messageAck,
        values.ReconfigureMsg: Connection._reconfigure,
        values.FileStart: Connection._fileStart,
        values.FilePart: Connection._filePart,
    },
)
"""What a box may send once it is here, beside blocks of tracks."""
