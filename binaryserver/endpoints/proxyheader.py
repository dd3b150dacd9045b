"""
The PROXY protocol's header, sans-IO: bytes in, addresses out. The header itself is read by Twisted's parsers.

Twisted's own wrapper closes a link whose header comes in small pieces, lets C{ValueError} escape on a bad port, takes
any text for an address, and waits for ever; so only its parsers of complete headers are used.

Source: U{https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt}.
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.protocols.haproxy._exceptions import InvalidProxyHeader
from twisted.protocols.haproxy._v1parser import V1Parser
from twisted.protocols.haproxy._v2parser import V2Parser

from binaryserver.errors import BadProxyHeader

V1_START = b"PROXY "
V1_LONGEST = 107
V2_FIXED = 16
V2_LONGEST = V2_FIXED + 4096
"""bytes: addresses take at most 232, the rest are TLVs, which are skipped. The format itself allows 65,551."""

_V2_STREAMS = (0x11, 0x21)
"""TCP over IPv4 and over IPv6, of the byte of family and transport."""
_V2_OTHERS = (0x00, 0x31)
"""Unspecified, and UNIX streams: well-formed, but no address that a box could have."""
_V2_LOCAL, _V2_PROXY = 0x20, 0x21

StreamAddress = IPv4Address | IPv6Address


class ProxyHeader(NamedTuple):
    """
    A header that was read.

    @ivar source: the client; L{None}: the header does not say, the connection's own end counts
    @ivar destination: where the client connected to; L{None} likewise
    @ivar rest: bytes behind the header: the link's own
    """

    source: StreamAddress | None
    destination: StreamAddress | None
    rest: bytes


class ProxyHeaderReader:
    """
    Reads one header, version 1 or 2, in pieces of any size.
    """

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> ProxyHeader | None:
        """
        @param data: what came next
        @return: L{None} until the header is complete
        @raise BadProxyHeader: this is none, as early as can be told
        """
        self._buffer += data
        start = self._buffer[: len(V2Parser.PREFIX)]
        if V2Parser.PREFIX.startswith(start):
            return self._feedVersion2()
        if start.startswith(V1_START) or V1_START.startswith(start):
            return self._feedVersion1()
        raise BadProxyHeader("the link does not begin with a PROXY protocol header")

    def _feedVersion1(self) -> ProxyHeader | None:
        end = self._buffer.find(V1Parser.NEWLINE, 0, V1_LONGEST)
        if end < 0:
            if len(self._buffer) >= V1_LONGEST:
                raise BadProxyHeader(f"PROXY header of version 1 is longer than {V1_LONGEST} bytes")
            return None
        line, rest = self._buffer[:end], self._buffer[end + 2 :]
        parts = line.split(b" ")
        if parts[1] != V1Parser.UNKNOWN_PROTO and len(parts) != 6:
            raise BadProxyHeader("PROXY header of version 1 has not the six words of an address")
        try:
            info = V1Parser.parse(line if len(parts) > 2 else line + b" ")
        except (InvalidProxyHeader, ValueError) as error:
            raise BadProxyHeader("PROXY header of version 1 cannot be read") from error
        return ProxyHeader(_checked(info.source), _checked(info.destination), rest)

    def _feedVersion2(self) -> ProxyHeader | None:
        if len(self._buffer) < V2_FIXED:
            return None
        command, kind = self._buffer[12], self._buffer[13]
        if command not in (_V2_LOCAL, _V2_PROXY):
            raise BadProxyHeader(f"PROXY header of version 2 has version and command {command:#04x}")
        size = V2_FIXED + int.from_bytes(self._buffer[14:16], "big")
        if size > V2_LONGEST:
            raise BadProxyHeader(f"PROXY header of version 2 announces {size} bytes, more than {V2_LONGEST}")
        if command == _V2_PROXY and kind not in _V2_STREAMS and kind not in _V2_OTHERS:
            raise BadProxyHeader(f"PROXY header of version 2 is of a kind that is no stream: {kind:#04x}")
        if len(self._buffer) < size:
            return None
        header, rest = self._buffer[:size], self._buffer[size:]
        try:
            info = V2Parser.parse(header)
        except InvalidProxyHeader as error:
            raise BadProxyHeader("PROXY header of version 2 is too short for its addresses") from error
        return ProxyHeader(_checked(info.source), _checked(info.destination), rest)


def _checked(address: object) -> StreamAddress | None:
    """
    An address in its usual spelling, so that it compares with those of other links.

    @raise BadProxyHeader: it is no address
    """
    if not isinstance(address, StreamAddress):
        return None
    try:
        host = ipaddress.ip_address(address.host)
    except ValueError as error:
        raise BadProxyHeader("PROXY header holds something that is no IP address") from error
    if "%" in address.host:
        # An IPv6 zone: any text may stand there, and none means anything on another host.
        raise BadProxyHeader("PROXY header holds an address with a zone")
    if not 0 <= address.port <= 65535 or isinstance(address, IPv4Address) != (host.version == 4):
        raise BadProxyHeader("PROXY header holds an address that does not fit its family, or no port")
    return type(address)("TCP", str(host), address.port)
