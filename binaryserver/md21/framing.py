"""
PDUs on a stream: each follows its length in 2 bytes.
"""

from __future__ import annotations

from typing import Final

from binaryserver.errors import MalformedPacket, PacketTooLarge, PeerError
from binaryserver.md21.values import MAX_PDU

LENGTH: Final = 2
"""Bytes before each PDU."""


def frame(pdu: bytes) -> bytes:
    """
    A PDU with its length.
    """
    return len(pdu).to_bytes(LENGTH, "big") + pdu


class Framing:
    """
    One direction of one link. What is held is one PDU that has started to arrive; while L{isHeld}, also what follows
    the one that was given last.

    @ivar maxPdu: bytes, the largest PDU that is taken
    @ivar error: why nothing is taken any more; L{None}: nothing is wrong
    """

    __slots__ = ("_held", "error", "isHeld", "maxPdu")

    def __init__(self, maxPdu: int) -> None:
        self.maxPdu = maxPdu
        self.isHeld = False
        self.error: PeerError | None = None
        self._held = bytearray()

    @property
    def held(self) -> int:
        """
        Bytes that are held.
        """
        return len(self._held)

    @property
    def partialSize(self) -> int:
        """
        Bytes of the PDU that has started to arrive, those to come included; 0: none has, or its length is not known.
        """
        held = self._held
        return 0 if len(held) < LENGTH else LENGTH + (held[0] << 8 | held[1])

    def feed(self, data: bytes, most: int = -1) -> list[bytes]:
        """
        Take what one read brought; give the PDUs that are whole by it. A length that cannot be is noted in L{error}
        when it is seen, and ends everything.

        @param most: give so many at most, and hold what follows
        """
        if self.error is not None:
            return []
        held = self._held
        if self.isHeld:
            if len(held) + len(data) > LENGTH + MAX_PDU:
                self._fail(PacketTooLarge("too much was sent before the answer to the header"))
            else:
                held += data
            return []
        if held:
            held += data
            if len(held) >= LENGTH and len(held) < LENGTH + (held[0] << 8 | held[1]) <= LENGTH + self.maxPdu:
                return []
            data = bytes(held)
        pdus: list[bytes] = []
        start, end = 0, len(data)
        while end - start >= LENGTH and len(pdus) != most:
            length = data[start] << 8 | data[start + 1]
            if length > self.maxPdu:
                self._fail(PacketTooLarge(f"a PDU of {length} bytes, where {self.maxPdu} are allowed"))
                return pdus
            if not length:
                self._fail(MalformedPacket("a PDU of no bytes"))
                return pdus
            stop = start + LENGTH + length
            if stop > end:
                break
            pdus.append(data[start + LENGTH : stop])
            start = stop
        self._held = bytearray(data[start:])
        return pdus

    def drop(self) -> None:
        """
        Forget what is held.
        """
        self._held = bytearray()

    def _fail(self, error: PeerError) -> None:
        self.error = error
        self.drop()
