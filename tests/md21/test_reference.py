"""
L{binaryserver.md21.codec} against codecs that nobody here wrote, both ways: asn1tools, and Erlang's asn1ct.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.errors import MalformedPacket
from binaryserver.md21 import values
from binaryserver.md21.codec import decode, encode
from tests.md21.abstract import Abstract, asn1tools, fromTrackingData, toAbstract
from tests.md21.erlang import Erlang
from tests.md21.strategies import BLOCKS, BUT_TRACKS, columns

SETTINGS = settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)


# What fails before Erlang is not made smaller: it would take minutes.
ERLANG_SETTINGS = settings(SETTINGS, phases=[Phase.explicit, Phase.reuse, Phase.generate])


def checkAll(strategy: SearchStrategy[Any], check: Callable[[Any], None], how: settings = SETTINGS) -> None:
    """
    Check what a strategy draws.
    """
    how(given(strategy)(check))()


def fromAbstract(value: dict[str, Any]) -> values.TrackingData | None:
    """
    The block of some columns, C{None} where they break a rule.
    """
    try:
        return fromTrackingData(value)
    except MalformedPacket:
        return None


def decoded(pdu: bytes) -> values.Pdu | None:
    """
    What our codec reads, C{None} where it refuses.
    """
    try:
        return decode(pdu)
    except MalformedPacket:
        return None


class Asn1toolsTests(SynchronousTestCase):
    """
    The codec beside asn1tools.
    """

    def test_everyPdu(self) -> None:
        """
        Values of every type but blocks of tracks have the same bytes by both, and those bytes are the same value.
        """

        def check(pdu: values.Pdu) -> None:
            abstract = toAbstract(pdu)
            octets = asn1tools().encode("MD-Data", abstract)
            self.assertEqual(encode(pdu).hex(), octets.hex())
            self.assertEqual(asn1tools().decode("MD-Data", octets), abstract)
            self.assertEqual(repr(decode(octets)), repr(pdu))

        for strategy in BUT_TRACKS.values():
            checkAll(strategy, check)

    @SETTINGS
    @given(BLOCKS)
    def test_blocks(self, block: values.TrackingData) -> None:
        """
        A block that we write, asn1tools reads as the same tracks, and writes as the same bytes.
        """
        octets = encode(block)
        name, abstract = asn1tools().decode("MD-Data", octets)
        self.assertEqual(name, "trackingdata")
        self.assertEqual(repr(fromTrackingData(abstract)), repr(block))
        self.assertEqual(asn1tools().encode("MD-Data", (name, abstract)).hex(), octets.hex())

    @SETTINGS
    @given(columns())
    def test_columns(self, abstract: dict[str, Any]) -> None:
        """
        Columns of every kind that asn1tools writes are read as their tracks, or refused where they break a rule.
        """
        octets = asn1tools().encode("MD-Data", ("trackingdata", abstract))
        self.assertEqual(repr(decoded(octets)), repr(fromAbstract(abstract)))


class ErlangTests(SynchronousTestCase):
    """
    The codec beside Erlang's.
    """

    def setUp(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        self.erlang = Erlang(folder)
        self.addCleanup(self.erlang.close)

    def both(self, abstract: Abstract, octets: bytes) -> None:
        """
        Erlang writes this value as these bytes, and reads them as this value.
        """
        self.assertEqual(self.erlang.encode(abstract).hex(), octets.hex())
        self.assertEqual(self.erlang.decode(abstract, octets), "same")

    def test_everyPdu(self) -> None:
        """
        Values of every type but blocks of tracks have the same bytes by both.
        """
        for strategy in BUT_TRACKS.values():
            checkAll(strategy, lambda pdu: self.both(toAbstract(pdu), encode(pdu)), ERLANG_SETTINGS)

    def test_blocks(self) -> None:
        """
        A block that we write, Erlang reads as what asn1tools reads, and writes as the same bytes.
        """

        def check(block: values.TrackingData) -> None:
            octets = encode(block)
            self.both(asn1tools().decode("MD-Data", octets), octets)

        checkAll(BLOCKS, check, ERLANG_SETTINGS)

    def test_columns(self) -> None:
        """
        Columns of every kind that Erlang writes are read as their tracks, or refused where they break a rule.
        """

        def check(abstract: dict[str, Any]) -> None:
            octets = self.erlang.encode(("trackingdata", abstract))
            self.assertEqual(repr(decoded(octets)), repr(fromAbstract(abstract)))
            self.assertEqual(self.erlang.decode(("trackingdata", abstract), octets), "same")

        checkAll(columns(), check, ERLANG_SETTINGS)
