"""
Unaligned PER (X.691), as much of it as C{proto/md21.asn1} needs: bits in, values out, and back.

What cannot be read raises L{MalformedPacket}; what cannot be written is our own mistake, a C{ValueError}. Both work in
time and memory linear to the bytes.
"""

from __future__ import annotations

from typing import Final, NoReturn

from binaryserver.errors import MalformedPacket

SHORT: Final = 0x80
"""Lengths below have one byte (see L{longLength})."""

_LONG: Final = 0xC0
_FRAGMENT: Final = 16_384


def refuse(what: str) -> NoReturn:
    """
    @raise MalformedPacket: always
    """
    raise MalformedPacket(f"not a PDU of MD21: {what}")


class Reader:
    """
    Reads one PDU from its first bit on.

    @ivar data: the PDU
    @ivar position: the next bit
    @ivar end: how many bits there are
    """

    __slots__ = ("data", "end", "position")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0
        self.end = len(data) * 8

    def bits(self, count: int) -> int:
        """
        The next bits, the first of them the most significant.
        """
        start = self.position
        end = start + count
        if end > self.end:
            refuse("it ends too soon")
        self.position = end
        return int.from_bytes(self.data[start >> 3 : (end + 7) >> 3]) >> (-end & 7) & ((1 << count) - 1)

    def flag(self) -> bool:
        """
        A BOOLEAN, an optional component's or an extension's bit.
        """
        position = self.position
        if position >= self.end:
            refuse("it ends too soon")
        self.position = position + 1
        return self.data[position >> 3] >> (~position & 7) & 1 == 1

    def ranged(self, low: int, high: int) -> int:
        """
        An INTEGER (low..high), or the length of what has a SIZE (low..high).
        """
        value = self.bits((high - low).bit_length()) + low
        if value > high:
            refuse("a number out of its range")
        return value

    def octets(self, count: int) -> bytes:
        """
        The next C{count} bytes.
        """
        return self.bits(count * 8).to_bytes(count)

    def aligned(self) -> bytes:
        """
        What is left, the next bit the first of its first byte; the position stays. What reads many bytes one after the
        other takes them from here.
        """
        left = self.data[self.position >> 3 :]
        shift = self.position & 7
        if not shift:
            return left
        return (int.from_bytes(left) << shift & (1 << len(left) * 8) - 1).to_bytes(len(left))

    def text(self, low: int, high: int) -> str:
        """
        A VisibleString (SIZE (low..high)).
        """
        count = self.ranged(low, high)
        packed = self.bits(7 * count)
        codes = bytes(packed >> shift & 0x7F for shift in range(7 * (count - 1), -1, -7))
        text = codes.decode("ascii")
        if not text.isprintable():
            refuse("a character that a VisibleString does not have")
        return text

    def utf8(self, low: int, high: int) -> str:
        """
        A UTF8String (SIZE (low..high)); a size counts characters, and does not show in the encoding.
        """
        try:
            text = self.octets(self.length()).decode()
        except UnicodeDecodeError:
            refuse("text that is not UTF-8")
        if not low <= len(text) <= high:
            refuse("text of a length that is not allowed")
        return text

    def length(self) -> int:
        """
        A length without bounds (X.691 11.9.3), below 16,384: longer ones come in fragments.
        """
        count = self.bits(8)
        if count < SHORT:
            return count
        return longLength(count, self.bits(8))

    def skipExtensions(self) -> None:
        """
        Pass over what a later version has added to a SEQUENCE whose extension bit is set (X.691 19.7 to 19.9).
        """
        if self.flag():
            count = self.length()
            if count <= 64:
                refuse("a count in its longer form without need")
        else:
            count = self.bits(6) + 1
        present = self.bits(count).bit_count()
        if not present:
            refuse("an extension bit without an extension")
        for _ in range(present):
            self._skipOpenType()

    def finish(self) -> None:
        """
        Nothing but the padding of the last byte may follow.
        """
        left = self.end - self.position
        if left >= 8:
            refuse("bytes after its end")
        if self.bits(left):
            refuse("padding that is not 0")

    def _skipOpenType(self) -> None:
        while (first := self.bits(8)) >= _LONG:
            if not 1 <= first & 0x3F <= 4:
                refuse("a fragment of a size that there is not")
            self._skip((first & 0x3F) * _FRAGMENT)
        self._skip((first & 0x3F) << 8 | self.bits(8) if first >= SHORT else first)

    def _skip(self, octets: int) -> None:
        self.position += octets * 8
        if self.position > self.end:
            refuse("it ends too soon")


class Writer:
    """
    Writes one PDU.
    """

    __slots__ = ("_count", "_value")

    def __init__(self) -> None:
        # a 1 in front keeps the first 0 bits
        self._value = 1
        self._count = 0

    def bits(self, value: int, count: int) -> None:
        """
        Append the low C{count} bits of a number that has no more.
        """
        self._value = self._value << count | value
        self._count += count

    def flag(self, value: bool) -> None:
        """
        As L{Reader.flag}.
        """
        self.bits(1 if value else 0, 1)

    def ranged(self, value: int, low: int, high: int) -> None:
        """
        As L{Reader.ranged}.

        @raise ValueError: out of range
        """
        if not low <= value <= high:
            raise ValueError(f"{value} is not in {low}..{high}")
        self.bits(value - low, (high - low).bit_length())

    def octets(self, value: bytes) -> None:
        """
        Append bytes.
        """
        self.bits(int.from_bytes(value), len(value) * 8)

    def text(self, value: str, low: int, high: int) -> None:
        """
        As L{Reader.text}.

        @raise ValueError: too long, too short, or not of printable ASCII
        """
        if not value.isascii() or not value.isprintable():
            raise ValueError("not printable ASCII")
        self.ranged(len(value), low, high)
        for code in value.encode("ascii"):
            self.bits(code, 7)

    def utf8(self, value: str, low: int, high: int) -> None:
        """
        As L{Reader.utf8}.

        @raise ValueError: too long or too short
        """
        if not low <= len(value) <= high:
            raise ValueError(f"text of {len(value)} characters is not of {low} to {high}")
        self.octets(prefixed(value.encode()))

    def finish(self) -> bytes:
        """
        The PDU, its last byte filled up with 0.
        """
        padding = -self._count & 7
        octets = (self._count + padding) >> 3
        return (self._value << padding).to_bytes(octets + 1)[1:]


def longLength(first: int, second: int) -> int:
    """
    A length of two bytes: from L{SHORT} to 16,383.
    """
    if first >= _LONG:
        refuse("text in fragments")
    count = (first & 0x3F) << 8 | second
    if count < SHORT:
        refuse("a length in its longer form without need")
    return count


def prefixed(octets: bytes) -> bytes:
    """
    Bytes behind their length, as L{Reader.length} reads it.
    """
    count = len(octets)
    return (bytes((count,)) if count < SHORT else (SHORT << 8 | count).to_bytes(2)) + octets
