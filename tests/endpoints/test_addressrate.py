"""
Tests for L{binaryserver.endpoints.addressrate}.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.endpoints import addressrate
from binaryserver.endpoints.addressrate import AddressRates, addressKey, hostKey


class AddressKeyTests(SynchronousTestCase):
    """
    What counts as one address.
    """

    def key(self, host: str) -> bytes | None:
        """
        Of an IPv6 address.
        """
        return addressKey(IPv6Address("TCP", host, 1000))

    def test_ipv4(self) -> None:
        """
        Each IPv4 address, whatever the port, and in IPv6's form as well.
        """
        key = addressKey(IPv4Address("TCP", "203.0.113.7", 1000))
        self.assertEqual(key, bytes([203, 0, 113, 7]))
        self.assertEqual(key, addressKey(IPv4Address("TCP", "203.0.113.7", 1001)))
        self.assertEqual(key, self.key("::ffff:203.0.113.7"))
        self.assertNotEqual(key, self.key("::ffff:203.0.113.8"))

    def test_ipv6(self) -> None:
        """
        Of IPv6 the first 64 bits, without a zone.
        """
        key = self.key("2001:db8:1:2::1")
        self.assertEqual(key, self.key("2001:db8:1:2:ffff::9"))
        self.assertNotEqual(key, self.key("2001:db8:1:3::1"))
        self.assertEqual(self.key("fe80::1%eth0"), self.key("fe80::2"))

    def test_none(self) -> None:
        """
        What is not of a network has none.
        """
        for address in (None, UNIXAddress(b"/run/socket"), IPv4Address("TCP", "nonsense", 1)):
            self.assertIsNone(addressKey(address))

    def test_host(self) -> None:
        """
        An address as text has the same; what is none has an empty one.
        """
        self.assertEqual(hostKey("203.0.113.7"), bytes([203, 0, 113, 7]))
        self.assertEqual(hostKey("2001:db8:1:2::1"), self.key("2001:db8:1:2:ffff::9"))
        for host in ("", "/run/socket", "a:b"):
            self.assertEqual(hostKey(host), b"")

    @given(st.text(max_size=50))
    def test_anyHost(self, host: str) -> None:
        """
        Nothing that stands in an address is an exception.
        """
        addressKey(IPv4Address("TCP", host, 1))
        addressKey(IPv6Address("TCP", host, 1))
        hostKey(host)


class AddressRatesTests(SynchronousTestCase):
    """
    How often.
    """

    def test_burst(self) -> None:
        """
        What would come in two seconds may come at once; then only as fast as the rate, each address for itself.
        """
        rates = AddressRates(10)
        self.assertEqual([rates.admit(b"a", 0.0) for _ in range(25)], [True] * 20 + [False] * 5)
        self.assertTrue(rates.admit(b"b", 0.0))
        self.assertEqual([rates.admit(b"a", 0.1) for _ in range(2)], [True, False])
        self.assertEqual([rates.admit(b"a", 60.0) for _ in range(25)], [True] * 20 + [False] * 5)

    def test_slow(self) -> None:
        """
        A rate of less than one in two seconds still lets one in.
        """
        rates = AddressRates(0.1)
        said = [rates.admit(b"a", now) for now in (0.0, 5.0, 10.1, 10.2)]
        self.assertEqual(said, [True, False, True, False])

    def test_refusedCountsNot(self) -> None:
        """
        Who goes on while it is refused comes in as soon as one who waits.
        """
        rates = AddressRates(1)
        admitted = sum(rates.admit(b"a", number / 100) for number in range(1001))
        self.assertEqual(admitted, 12)

    def test_bounded(self) -> None:
        """
        The address that was not seen for longest is forgotten; one that keeps being refused is not.
        """
        self.patch(addressrate, "MOST_ADDRESSES", 3)
        rates = AddressRates(1)
        self.assertEqual([rates.admit(b"flood", 0.0) for _ in range(3)], [True, True, False])
        for number in range(100):
            rates.admit(b"%d" % number, 0.0)
            self.assertFalse(rates.admit(b"flood", 0.0))
        self.assertEqual(len(rates._fullAt), 3)

    @given(st.lists(st.floats(0, 3), max_size=60), st.integers(1, 5))
    def test_neverMore(self, gaps: list[float], rate: int) -> None:
        """
        In no stretch of time are there more than the rate and the burst allow.
        """
        rates, now, admitted = AddressRates(rate), 0.0, []
        for gap in gaps:
            now += gap
            if rates.admit(b"a", now):
                admitted.append(now)
        for first, start in enumerate(admitted):
            for last, end in enumerate(admitted[first:], 1):
                self.assertLessEqual(last, rate * (end - start) + 2 * rate + 1e-6)
