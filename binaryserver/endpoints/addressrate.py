"""
How often each address may connect.
"""

from __future__ import annotations

import socket
from collections import OrderedDict

from twisted.internet.address import IPv4Address, IPv6Address

BURST = 2.0
"""s: what an address may do in so long at its rate, it may do at once."""
MOST_ADDRESSES = 16_384
"""That are remembered, 200 bytes each; the one that was not seen for longest is forgotten."""

_MAPPED = b"\x00" * 10 + b"\xff\xff"


def addressKey(address: object) -> bytes | None:
    """
    What counts as one address: of IPv6 the first 64 bits, which one subscriber has all below of.

    @return: L{None}: it is none of a network
    """
    try:
        if isinstance(address, IPv4Address):
            return socket.inet_pton(socket.AF_INET, address.host)
        if isinstance(address, IPv6Address):
            packed = socket.inet_pton(socket.AF_INET6, address.host.partition("%")[0])
            # An IPv4 address on a socket for both.
            return packed[12:] if packed.startswith(_MAPPED) else packed[:8]
    except (OSError, ValueError):
        # Not from a socket or a PROXY header, whose addresses are checked.
        return None
    return None


def hostKey(host: str) -> bytes:
    """
    The same of an address as text.

    @return: empty: it is none of a network
    """
    address = IPv6Address("TCP", host, 0) if ":" in host else IPv4Address("TCP", host, 0)
    return addressKey(address) or b""


class AddressRates:
    """
    A bucket of tokens for each address, kept as the time at which it will be full again.
    """

    def __init__(self, rate: float) -> None:
        """
        @param rate: connections a second
        """
        self._interval = 1.0 / rate
        # One connection fits into any burst.
        self._depth = max(BURST, self._interval)
        self._fullAt: OrderedDict[bytes, float] = OrderedDict()

    def admit(self, key: bytes, now: float) -> bool:
        """
        Count a connection.

        @param now: s
        @return: whether it may be; one that may not counts for nothing
        """
        fullAt = max(self._fullAt.get(key, now), now) + self._interval
        if fullAt - now > self._depth + 1e-9:
            self._fullAt.move_to_end(key)
            return False
        self._fullAt[key] = fullAt
        self._fullAt.move_to_end(key)
        if len(self._fullAt) > MOST_ADDRESSES:
            self._fullAt.popitem(last=False)
        return True
