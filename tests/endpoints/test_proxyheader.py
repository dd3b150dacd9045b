"""
Tests for L{binaryserver.endpoints.proxyheader}.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address as IPv4
from ipaddress import IPv6Address as IPv6

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.endpoints.proxyheader import V2_LONGEST, ProxyHeader, ProxyHeaderReader
from binaryserver.errors import BadProxyHeader

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V1_IPV4 = b"PROXY TCP4 203.0.113.7 198.51.100.1 56324 8883\r\n"
V1_IPV6 = b"PROXY TCP6 2001:db8::7 2001:db8::1 56324 8883\r\n"


def version2(body: bytes, command: int = 0x21, kind: int = 0x11) -> bytes:
    """
    A header around a body.
    """
    return SIGNATURE + bytes([command, kind]) + struct.pack("!H", len(body)) + body


def addresses4(source: str = "203.0.113.7", port: int = 56324) -> bytes:
    """
    The body of an IPv4 header.
    """
    return IPv4(source).packed + IPv4("198.51.100.1").packed + struct.pack("!HH", port, 8883)


V2_IPV4 = version2(addresses4())
V2_IPV6 = version2(IPv6("2001:db8::7").packed + IPv6("2001:db8::1").packed + struct.pack("!HH", 56324, 8883), kind=0x21)
V2_TLVS = version2(addresses4() + b"\x04\x00\x03abc" + b"\x20\x00\x05\x01\x00\x00\x00\x00")
V2_LOCAL = version2(b"", command=0x20, kind=0x00)
V2_LOCAL_WITH_ADDRESSES = version2(addresses4(), command=0x20)
V2_UNSPECIFIED = version2(b"\x04\x00\x00", kind=0x00)
V2_UNIX = version2(b"/run/a".ljust(108, b"\0") + b"/run/b".ljust(108, b"\0"), kind=0x31)

SOURCE4 = IPv4Address("TCP", "203.0.113.7", 56324)
SOURCE6 = IPv6Address("TCP", "2001:db8::7", 56324)

GOOD: dict[str, tuple[bytes, IPv4Address | IPv6Address | None]] = {
    "version 1, IPv4": (V1_IPV4, SOURCE4),
    "version 1, IPv6": (V1_IPV6, SOURCE6),
    "version 1, unknown": (b"PROXY UNKNOWN\r\n", None),
    "version 1, unknown with addresses": (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None),
    "version 1, longest": (b"PROXY UNKNOWN ".ljust(105, b"x") + b"\r\n", None),
    "version 2, IPv4": (V2_IPV4, SOURCE4),
    "version 2, IPv6": (V2_IPV6, SOURCE6),
    "version 2, TLVs": (V2_TLVS, SOURCE4),
    "version 2, local": (V2_LOCAL, None),
    "version 2, local with addresses": (V2_LOCAL_WITH_ADDRESSES, None),
    "version 2, unspecified": (V2_UNSPECIFIED, None),
    "version 2, UNIX": (V2_UNIX, None),
    "version 2, longest": (version2(addresses4().ljust(V2_LONGEST - 16, b"\0")), SOURCE4),
}

BAD: dict[str, bytes] = {
    "MQTT": b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HTTP": b"GET / HTTP/1.1\r\n",
    "version 1, lower case": b"proxy TCP4 1.2.3.4 1.2.3.5 1 2\r\n",
    "version 1, nothing": b"PROXY \r\n",
    "version 1, unknown protocol": b"PROXY UDP4 1.2.3.4 1.2.3.5 1 2\r\n",
    "version 1, no ports": b"PROXY TCP4 1.2.3.4 1.2.3.5\r\n",
    "version 1, port no number": b"PROXY TCP4 1.2.3.4 1.2.3.5 x y\r\n",
    "version 1, port too large": b"PROXY TCP4 1.2.3.4 1.2.3.5 65536 1\r\n",
    "version 1, port negative": b"PROXY TCP4 1.2.3.4 1.2.3.5 -1 1\r\n",
    "version 1, no address": b"PROXY TCP4 localhost 1.2.3.5 1 2\r\n",
    "version 1, not UTF-8": b"PROXY TCP4 \xff\xfe 1.2.3.5 1 2\r\n",
    "version 1, zone": b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
    "version 1, wrong family": b"PROXY TCP4 ::1 ::2 1 2\r\n",
    "version 1, a word too many": b"PROXY TCP4 1.2.3.4 1.2.3.5 1 2 3\r\n",
    "version 1, too long": b"PROXY UNKNOWN ".ljust(107, b"x") + b"\r\n",
    "version 1, no end": b"PROXY UNKNOWN " + b"x" * 200,
    "version 2, version 3": version2(addresses4(), command=0x31),
    "version 2, unknown command": version2(addresses4(), command=0x22),
    "version 2, unknown family": version2(addresses4(), kind=0x41),
    "version 2, datagrams": version2(addresses4(), kind=0x12),
    "version 2, too short": version2(addresses4()[:-1]),
    "version 2, empty": version2(b""),
    "version 2, IPv6 too short": version2(addresses4(), kind=0x21),
    "version 2, UNIX too short": version2(addresses4(), kind=0x31),
    "version 2, too long": version2(addresses4().ljust(V2_LONGEST - 15, b"\0")),
}


def readIn(pieces: list[bytes]) -> ProxyHeader | None:
    """
    Feed pieces until the header is complete; the pieces behind it are added to the rest.
    """
    reader = ProxyHeaderReader()
    for number, piece in enumerate(pieces):
        header = reader.feed(piece)
        if header is not None:
            return header._replace(rest=header.rest + b"".join(pieces[number + 1 :]))
    return None


class ProxyHeaderTests(SynchronousTestCase):
    """
    What is a header, and what it says.
    """

    def test_whole(self) -> None:
        """
        A header that comes at once gives the client's address, and what follows it.
        """
        for name, (header, source) in GOOD.items():
            with self.subTest(name):
                read = readIn([header + b"rest"])
                assert read is not None
                self.assertEqual((read.source, read.rest), (source, b"rest"))

    def test_splitHeader(self) -> None:
        """
        A header may be cut anywhere, and come byte by byte.
        """
        for name, (header, source) in GOOD.items():
            with self.subTest(name):
                for cut in range(1, len(header)):
                    read = readIn([header[:cut], header[cut:] + b"rest"])
                    assert read is not None
                    self.assertEqual((read.source, read.rest), (source, b"rest"))
                read = readIn([bytes([byte]) for byte in header + b"rest"])
                assert read is not None
                self.assertEqual((read.source, read.rest), (source, b"rest"))

    def test_truncated(self) -> None:
        """
        A header that is not complete is waited for.
        """
        for name, (header, _) in GOOD.items():
            with self.subTest(name):
                for cut in range(len(header)):
                    self.assertIsNone(ProxyHeaderReader().feed(header[:cut]))

    def test_bad(self) -> None:
        """
        What is none is refused, whole or byte by byte.
        """
        for name, data in BAD.items():
            with self.subTest(name):
                self.assertRaises(BadProxyHeader, readIn, [data])
                self.assertRaises(BadProxyHeader, readIn, [bytes([byte]) for byte in data])

    def test_refusedEarly(self) -> None:
        """
        The first byte that no header has is enough, so that nothing is gathered for it.
        """
        self.assertRaises(BadProxyHeader, ProxyHeaderReader().feed, b"\x10")
        self.assertRaises(BadProxyHeader, ProxyHeaderReader().feed, b"PROXX")
        self.assertRaises(BadProxyHeader, ProxyHeaderReader().feed, b"\r\n\r\n\x01")

    def test_destination(self) -> None:
        """
        Where the client connected to is told as well.
        """
        for header in (V1_IPV4, V2_IPV4):
            read = readIn([header])
            assert read is not None
            self.assertEqual(read.destination, IPv4Address("TCP", "198.51.100.1", 8883))

    @given(st.integers(0, 2**128 - 1), st.integers(0, 65535))
    def test_canonicalAddress(self, number: int, port: int) -> None:
        """
        An address is spelled alike whichever version brought it.
        """
        address = IPv6(number)
        one = f"PROXY TCP6 {address.exploded} ::1 {port} 1\r\n".encode()
        two = version2(address.packed + IPv6("::1").packed + struct.pack("!HH", port, 1), kind=0x21)
        self.assertEqual(readIn([one]), readIn([two]))

    @given(st.lists(st.binary(max_size=40), max_size=8), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE]))
    def test_anyBytes(self, pieces: list[bytes], start: bytes) -> None:
        """
        Any bytes are a header, none, or not yet one; and the reader keeps no more than the longest header.
        """
        reader = ProxyHeaderReader()
        try:
            for piece in [start, *pieces]:
                if reader.feed(piece) is not None:
                    break
        except BadProxyHeader as error:
            self.assertIn("PROXY", str(error))
