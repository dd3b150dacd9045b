"""
From the bytes of a link to control packets, however the bytes are split: an ordered, lossless stream is all that is
asked of a transport [MQTT-7.1.1-1].
"""

from __future__ import annotations

import re
from typing import Final

from binaryserver.errors import MalformedPacket, PacketTooLarge, PeerError
from binaryserver.mqtt.events import Broken, Publish
from binaryserver.mqtt.packets import Packet
from binaryserver.mqtt.parsers import FIRST_FROM_CLIENT, Parsers, topicNames, unexpected

_PUBLISH_QOS1: Final = 0x32
_PINGREQ: Final = 0xC0
_PINGREQS: Final = re.compile(rb"(?:\xc0\x00)+")
_NONE: Final = -1


class Framing:
    """
    One direction of one link. For a client's side of it: C{Framing(FROM_SERVER, maxPacket)}.

    What is held is at most one packet that has started to arrive: it costs as much memory as has arrived of it, and
    each byte of it is copied a bounded number of times however it drips in.

    With L{FIRST_FROM_CLIENT} it gives one packet and keeps what follows for L{proceed}, since what follows a CONNECT
    may be read only once that is answered [MQTT-3.1.4-5].

    @ivar partial: the bytes held; L{None} if there are none
    @ivar mixed: L{feed} last gave other packets than QoS 1 PUBLISHes of the plain kind (neither repeated nor retained)
    """

    __slots__ = ("_maxPacket", "_needed", "_parsers", "mixed", "partial")

    def __init__(self, parsers: Parsers, maxPacket: int) -> None:
        """
        @param parsers: what the other side may send, e.g. L{FROM_SERVER}
        @param maxPacket: bytes, the largest packet that is taken, its fixed header included
        """
        self._parsers: Parsers | None = parsers
        self._maxPacket = maxPacket
        self._needed = 0
        self.partial: bytearray | None = None
        self.mixed = False

    @property
    def partialSize(self) -> int:
        """
        Bytes of the packet that has started to arrive, those to come included; 0: none has, or its length is not known.
        """
        return 0 if self.partial is None else self._needed

    def feed(self, data: bytes) -> list[Packet | Broken]:
        """
        Take what one read brought; give the packets that are whole by it.

        Never raises: a broken rule comes last, as L{Broken}, and after it everything is ignored. A length that is too
        large, or a first byte that is not allowed, is refused when it is seen and not when its packet is whole.
        """
        parsers = self._parsers
        if parsers is None:
            return []
        partial = self.partial
        if partial is not None:
            if len(partial) + len(data) < self._needed:
                partial += data
                return []
            data = b"".join((partial, data))
            self.partial = None

        # One loop without a call for the packet that nearly all packets are: a QoS 1 PUBLISH. This is the hottest code
        # of the gateway (benchmarks/mqtt_framing.py).
        packets: list[Packet | Broken] = []
        append, new, names, limit = packets.append, tuple.__new__, topicNames, self._maxPacket
        fast = _PUBLISH_QOS1 if _PUBLISH_QOS1 in parsers else _NONE
        mixed = False
        start, end, needed = 0, len(data), 0
        try:
            while start + 1 < end:
                first = data[start]
                length = data[start + 1]
                body = start + 2
                if length > 127:
                    if body == end:
                        break
                    second = data[body]
                    body += 1
                    length += (second << 7) - 128
                    if second > 127:
                        if first not in parsers:
                            raise unexpected(first, parsers)
                        length, body = _longLength(data, start, end)
                        if not body:
                            break
                stop = body + length
                if stop - start > limit:
                    if first not in parsers:
                        raise unexpected(first, parsers)
                    raise PacketTooLarge(f"a packet of {stop - start} bytes, where {limit} are allowed")
                if stop > end:
                    needed = stop - start
                    break
                if first == fast and length > 4:
                    topicEnd = body + 2 + (data[body] << 8 | data[body + 1])
                    payload = topicEnd + 2
                    # What is wrong with it, if anything, is for the parser to say.
                    if payload <= stop:
                        packetId = data[topicEnd] << 8 | data[topicEnd + 1]
                        if packetId:
                            topic = names[data[body + 2 : topicEnd]]
                            append(new(Publish, (topic, data[payload:stop], 1, packetId, False, False)))
                            start = stop
                            continue
                parser = parsers.get(first)
                if parser is None:
                    raise unexpected(first, parsers)
                append(parser(first, data, body, stop))
                if first == _PINGREQ:
                    # Who floods the link with them, two bytes each, is not to cost the others much.
                    more = _PINGREQS.match(data, stop)
                    if more is not None:
                        packets += packets[-1:] * ((more.end() - stop) // 2)
                        stop = more.end()
                mixed = True
                start = stop
                if parsers is FIRST_FROM_CLIENT:
                    break
            if start < end:
                if (not packets or parsers is not FIRST_FROM_CLIENT) and data[start] not in parsers:
                    raise unexpected(data[start], parsers)
                self.partial = bytearray(data[start:] if start else data)
                self._needed = needed
        except PeerError as error:
            # Without its traceback, whose frames hold the peer's bytes.
            append(Broken(error.with_traceback(None)))
            mixed = True
            self.drop()
        self.mixed = mixed
        return packets

    def keep(self, data: bytes) -> Broken | None:
        """
        Hold what a read brought, unread, until L{proceed}.

        @return: L{Broken} when more than C{maxPacket} bytes are held
        """
        if self.partial is None:
            self.partial = bytearray()
        if len(self.partial) + len(data) > self._maxPacket:
            self.drop()
            return Broken(PacketTooLarge(f"more than {self._maxPacket} bytes sent before the CONNACK"))
        self.partial += data
        return None

    def proceed(self, parsers: Parsers, maxPacket: int) -> list[Packet | Broken]:
        """
        From now on expect C{parsers}; read what was kept.
        """
        self._parsers = parsers
        self._maxPacket = maxPacket
        self._needed = 0
        return self.feed(b"")

    def drop(self) -> None:
        """
        Forget what is held, and ignore what comes.
        """
        self._parsers = None
        self.partial = None


def _longLength(data: bytes, start: int, end: int) -> tuple[int, int]:
    """
    Read a remaining length whose first two bytes both say that it goes on.

    @return: the length, and where the packet's body starts: 0 if the length is not whole yet
    @raise MalformedPacket: it goes on after its fourth byte (section 2.2.3)
    """
    length = (data[start + 1] & 127) | (data[start + 2] & 127) << 7
    for shift, position in ((14, start + 3), (21, start + 4)):
        if position >= end:
            return 0, 0
        length |= (data[position] & 127) << shift
        if data[position] < 128:
            return length, position + 1
    raise MalformedPacket("a remaining length has more than four bytes")
