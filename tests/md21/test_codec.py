"""
Tests for L{binaryserver.md21.codec}.
"""

from __future__ import annotations

import re
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from binaryserver.errors import MalformedPacket
from binaryserver.md21 import values
from binaryserver.md21.codec import decode, encode
from binaryserver.md21.codec_write import WRITERS
from binaryserver.md21.values import MAX_PDU, Channel, HeaderStatus, Track, WantAck
from tests.md21.abstract import MODULE, asn1tools, block, column, fromBits, fromTrackingData, toAbstract
from tests.md21.samples import SAMPLES, TABLE, TOKEN


def position(north: list[int], east: list[int], base: tuple[int, int] = (0, 0)) -> dict[str, Any]:
    """
    C{Positions} of asn1tools.
    """
    return {"baseLatitude": base[0], "baseLongitude": base[1], "latitudes": north, "longitudes": east}


class CorpusTests(SynchronousTestCase):
    """
    Every PDU by its bytes.
    """

    def test_everyTypeIsThere(self) -> None:
        """
        The table has every type of PDU.
        """
        self.assertEqual({type(pdu) for _, pdu in TABLE}, set(WRITERS))

    def test_decoded(self) -> None:
        """
        Each sample is read as its value: of that type, and so are its parts.
        """
        for octets, (text, pdu) in zip(SAMPLES, TABLE, strict=True):
            self.assertEqual(repr(decode(octets)), repr(pdu), text)

    def test_encoded(self) -> None:
        """
        Each value is written as its sample.
        """
        for octets, (_, pdu) in zip(SAMPLES, TABLE, strict=True):
            self.assertEqual(encode(pdu).hex(), octets.hex(), pdu)

    def test_truncated(self) -> None:
        """
        No sample can lose a byte of its end.
        """
        for octets in SAMPLES:
            for end in range(len(octets)):
                self.assertRaises(MalformedPacket, decode, octets[:end])

    def test_trailing(self) -> None:
        """
        Nothing may follow a sample, not even in the bits that fill up its last byte.
        """
        for octets in SAMPLES:
            self.assertRaises(MalformedPacket, decode, octets + b"\0")
        self.assertRaises(MalformedPacket, decode, bytes((SAMPLES[-1][0],)) + SAMPLES[-1][1:-1] + b"\x01")

    def test_largest(self) -> None:
        """
        The longest payloads are written as asn1tools does, and read.
        """
        for pdu in (
            values.Transport(TOKEN, 1, (2,) * 31, bytes(65_280)),
            values.Message(1, 0, "x" * 64, bytes(values.MAX_PAYLOAD), values.EPOCH_MS, values.EPOCH_MS, 1, True),
            values.FilePart(1, 2, bytes(values.MAX_PART)),
        ):
            octets = encode(pdu)
            self.assertEqual(octets, asn1tools().encode("MD-Data", toAbstract(pdu)))
            self.assertEqual(decode(octets), pdu)

    def test_alignments(self) -> None:
        """
        Columns of text, short and long, are read wherever in a byte they start.
        """
        for count in range(1, 17):
            cells = ["é" * (n * 17 % 256) for n in range(count)]
            octets = block(
                times=[0] * count,
                fields=[
                    column(1, "bools", [True] * count),
                    column(2, "strings", cells),
                    column(3, "bytes", [cell.encode()[:255] for cell in cells]),
                    column(4, "int16", list(range(count))),
                ],
            )
            self.assertEqual(repr(decode(octets)), repr(fromTrackingData(asn1tools().decode("MD-Data", octets)[1])))


class RefusedTests(SynchronousTestCase):
    """
    What breaks a rule.
    """

    def refused(self, octets: bytes, why: str) -> None:
        """
        These bytes are malformed for this reason.
        """
        error = self.assertRaises(MalformedPacket, decode, octets)
        self.assertIn(why, str(error))

    def test_sizes(self) -> None:
        """
        Nothing, and more than a PDU can have.
        """
        self.refused(b"", "too soon")
        self.refused(bytes(MAX_PDU + 1), "65536 bytes")

    def test_laterVersions(self) -> None:
        """
        Alternatives and enumerations that a later version added cannot be understood.
        """
        self.refused(fromBits("1 0000000 00000001 00000000"), "later version")
        self.refused(fromBits("0 1111 0"), "later version")
        self.refused(fromBits("0 0011 0 1 000000"), "a Reason of a later version")
        self.refused(fromBits("0 0010 0 0 1 000000"), "a HeaderStatus of a later version")
        self.refused(fromBits("0 0101 1 000000"), "base value of a later version")
        kinds = fromBits(
            "0 1001 00 000" + "0" * 32 + "0" * 8 + "1" + "0" * 15 + "0000001 0" + "0" * 16 + "1000 00000000"
        )
        self.refused(kinds, "kind of a later version")

    def test_numbers(self) -> None:
        """
        Numbers that their bits can hold and their bounds cannot.
        """
        self.refused(fromBits("0 0011 0 0 11111"), "out of its range")
        self.refused(fromBits("0 0111 00 11" + "0" * 17), "out of its range")
        self.refused(fromBits("0 1000 0 00000000 11111111" + "0" * 20), "out of its range")

    def test_texts(self) -> None:
        """
        Characters, and lengths of text, that are not allowed.
        """
        self.refused(fromBits("0 0001 000 00000001 000000 0001010 000000 1100001 0 0000"), "a character")
        start = "0 1100 0" + "0" * 16
        rest = "0" * 32 + "0" * 256
        self.refused(fromBits(start + "00000001 11111111" + rest), "UTF-8")
        self.refused(fromBits(start + "00000000" + rest), "of a length")
        self.refused(fromBits(start + "10000001 00000000" + "00100000" * 256 + rest), "of a length")
        self.refused(fromBits(start + "10000000 00000001 01100001" + rest), "without need")
        self.refused(fromBits(start + "11000001" + rest), "fragments")

    def test_wholes(self) -> None:
        """
        Components that do not go together.
        """
        transport = {"token": TOKEN, "sequence": 1, "acks": []}
        self.refused(asn1tools().encode("MD-Data", ("transport", transport)), "a PDU in it")
        self.refused(
            asn1tools().encode("MD-Data", ("transport", {**transport, "sequence": 0, "pdu": b"P"})), "a PDU in"
        )
        message = {"temporaryId": 1, "channel": 0, "wantAck": False, "payload": b""}
        self.refused(asn1tools().encode("MD-Data", ("message", message)), "names its channel")
        named = {**message, "channel": 1, "channelName": "config"}
        self.refused(asn1tools().encode("MD-Data", ("message", named)), "names its channel")

    def test_positions(self) -> None:
        """
        Positions that are not on Earth, or of which half is missing.
        """
        self.refused(block(position=position([0, 0], [0])), "not as long")
        self.refused(block(position=position([0], [0, 0])), "not as long")
        for north, east, base in ((1, 0, (9_000_000, 0)), (0, -1, (0, -18_000_000))):
            self.refused(block(position=position([north], [east], base)), "not on Earth")
            sentinels = position([north, -32_768], [east, -32_768], base)
            self.refused(block(times=[0, 0], position=sentinels), "not on Earth")
        self.refused(block(position=position([-32_768], [0])), "half a position")
        self.refused(block(times=[0, 0], position=position([0, -32_768], [0, -32_767])), "half a position")
        self.refused(fromBits("0 1001 01 000" + "0" * 40 + "1" * 16 + "1" * 25 + "0" * 60), "not on Earth")

    def test_columns(self) -> None:
        """
        Columns that do not fit to their block, their marks or each other.
        """
        given = {"marks": ["given"]}
        self.refused(block(fields=[column(1, "int8", [1, 2])]), "not as long")
        self.refused(block(fields=[column(1, "int8", [1, 2], **given)]), "more or fewer")
        self.refused(block(fields=[column(1, "int8", [1], marks=["given", "none"])]), "not as many")
        self.refused(block(times=[0, 0], fields=[column(1, "int8", [1], marks=["same", "given"])]), "was not before")
        self.refused(block(fields=[column(2, "int8", [1]), column(1, "int8", [1])]), "in the order")
        self.refused(block(fields=[column(1, "int8", [1]), column(1, "bools", [True])]), "a field twice")
        marked = bytearray(block(fields=[column(0, "int8", [-128], **given)]))
        # before its last 20 bits, kind (4), count (8) and value (8), stands the mark
        self.refused((int.from_bytes(marked) | 3 << 20).to_bytes(len(marked)), "a mark")

    def test_columnsOfText(self) -> None:
        """
        Text that is too long, no UTF-8, or not there.
        """
        self.refused(block(fields=[column(1, "strings", ["x" * 256])]), "of a length")
        twoTexts = block(times=[0, 0], fields=[column(1, "strings", ["x" * 200, "y"])])
        self.refused(twoTexts[:-2], "too soon")
        self.refused(block(times=[0] * 20, fields=[column(1, "strings", [""] * 20)])[:-8], "too soon")
        twoBytes = block(times=[0, 0], fields=[column(1, "bytes", [b"x" * 200, b"y"])])
        self.refused(twoBytes[:-2], "too soon")
        self.refused(twoBytes[:-100], "too soon")
        text = block(fields=[column(1, "strings", ["\x7f"])])
        # two bits after the text fill up the last byte
        self.refused((int.from_bytes(text) | 0x80 << 2).to_bytes(len(text)), "UTF-8")

    def test_text(self) -> None:
        """
        The text that C{same} repeats is bounded: one column below, then one above.
        """
        times = [0] * 256
        columns = [column(n, "strings", ["x" * 250], marks=["given", *["same"] * 255]) for n in range(5)]
        octets = block(times=times, fields=columns[:4])
        self.assertEqual(repr(decode(octets)), repr(fromTrackingData(asn1tools().decode("MD-Data", octets)[1])))
        self.refused(block(times=times, fields=columns), "too much text")


class LaterVersionTests(SynchronousTestCase):
    """
    What a later version may add to a SEQUENCE.
    """

    def setUp(self) -> None:
        import asn1tools as compiler

        text = re.sub(
            r"(SEQUENCE \{[^{}]*\.\.\.)\n\}",
            r"\1,\n    laterText OCTET STRING OPTIONAL,\n    laterFlag BOOLEAN OPTIONAL\n}",
            MODULE.read_text(),
        )
        self.later = compiler.compile_string(text, "uper")

    def add(self, value: Any, later: dict[str, Any]) -> Any:
        """
        A value with the additions wherever its module allows them.
        """
        if isinstance(value, tuple):
            return value[0], self.add(value[1], later)
        if isinstance(value, dict):
            parts = {
                name: self.add(each, later) if name in ("udp", "capabilities") else each for name, each in value.items()
            }
            return {**parts, **later}
        return value

    def test_skipped(self) -> None:
        """
        It is passed over, in every PDU.
        """
        for later in ({"laterText": bytes(300)}, {"laterFlag": True}, {"laterText": b"", "laterFlag": False}):
            for octets, (text, pdu) in zip(SAMPLES, TABLE, strict=True):
                extended = self.add(asn1tools().decode("MD-Data", octets), later)
                self.assertEqual(repr(decode(self.later.encode("MD-Data", extended))), repr(pdu), text)

    def test_fragments(self) -> None:
        """
        It may come in fragments of 16,384 to 65,536 bytes, and no others.
        """
        start = "0 1010 1 0 000000 1"
        sized = "11000001" + "0" * 8 * 16_384
        self.assertEqual(decode(fromBits(start + sized + "00000010" + "0" * 16)), values.TrackingAck())
        for wrong in ("11000000", "11000101" + "0" * 8 * 16_384):
            self.assertRaises(MalformedPacket, decode, fromBits(start + wrong + "0" * 8))
        self.assertRaises(MalformedPacket, decode, fromBits(start + sized))
        self.assertRaises(MalformedPacket, decode, fromBits(start + "00000101" + "0" * 8 * 4))

    def test_many(self) -> None:
        """
        More than 64 additions are counted another way; none at all is malformed.
        """
        self.assertEqual(decode(fromBits("0 1010 1 1 01000001" + "1" * 65 + "0" * 8 * 65)), values.TrackingAck())
        for wrong in ("1 01000000" + "1" * 64 + "0" * 8 * 64, "0 000000 0"):
            self.assertRaises(MalformedPacket, decode, fromBits("0 1010 1 " + wrong))


class EncodeTests(SynchronousTestCase):
    """
    What cannot be written.
    """

    def test_values(self) -> None:
        """
        Values out of their bounds are told to whoever made them.
        """
        track = Track(values.EPOCH_MS, 0, 0)
        for pdu in (
            values.Transport(TOKEN, 1),
            values.Transport(TOKEN, 0, (), b"P"),
            values.Transport(TOKEN[1:], 0),
            values.Transport(TOKEN, 0, (1,) * 32),
            values.Transport(TOKEN, 1, (), bytes(65_281)),
            values.Header(256, "a", "b"),
            values.Header(1, "", "b"),
            values.Header(1, "a" * 65, "b"),
            values.Header(1, "ä", "b"),
            values.Header(1, "a\n", "b"),
            values.Header(1, "a", "b", "x" * 256),
            values.HeaderAck(HeaderStatus.OK, values.UdpOffer("a", 0, TOKEN)),
            values.Ping(-1),
            values.BaseValues(0, (Channel(0, "a"),)),
            values.Message(1, 0, None, b""),
            values.Message(1, 1, "a", b""),
            values.Message(1, 1, None, bytes(64_001)),
            values.Message(1, 1, None, b"", recordedAt=values.EPOCH_MS - 1),
            values.ReconfigureMsg(()),
            values.ReconfigureTrk(WantAck.NONE, 86_401),
            values.FileStart(1, "", 1, TOKEN),
            values.FilePart(1, 1, b""),
            values.TrackingData(WantAck.NONE, ()),
            values.TrackingData(WantAck.NONE, (track,) * 257),
        ):
            self.assertRaises(ValueError, encode, pdu)

    def test_tracks(self) -> None:
        """
        So are tracks that do not fit into one block, or into none.
        """
        track = Track(values.EPOCH_MS, 0, 0)
        for tracks in (
            (track._replace(recordedAt=values.EPOCH_MS + 1),),
            (track, track._replace(recordedAt=values.EPOCH_MS + 65_536_000)),
            (track._replace(recordedAt=values.EPOCH_MS - 32_769_000),),
            (track, track._replace(latitude=65_534)),
            (track, track._replace(longitude=-65_534)),
            (track._replace(latitude=9_000_001),),
            (track._replace(longitude=None),),
            (track._replace(fields=((2, 1), (1, 1))),),
            (track._replace(fields=((1, 1), (1, True))),),
            (track._replace(fields=((65_536, 1),)),),
            (track._replace(fields=((1, 1 << 63),)),),
            (track._replace(fields=((1, "x" * 256),)),),
            (track._replace(fields=((1, b"x" * 256),)),),
            (track._replace(fields=((1, WantAck.NONE),)),),
            (track._replace(fields=tuple((n, 1) for n in range(128))),),
            tuple(track._replace(fields=tuple((n, "x" * 250) for n in range(5))) for _ in range(256)),
            tuple(track._replace(fields=tuple((n, f"{i:250}") for n in range(2))) for i in range(256)),
        ):
            self.assertRaises(ValueError, encode, values.TrackingData(WantAck.NONE, tracks))

    def test_widest(self) -> None:
        """
        Tracks as far apart as a block allows, and its most tracks.
        """
        first = Track(values.EPOCH_MS - 32_768_000, 0, 0, ((1, 0.0),))
        last = Track(values.EPOCH_MS + 32_767_000, 65_533, -65_533, ((1, -0.0),))
        pdu = values.TrackingData(WantAck.NONE, (first, *[last] * 255))
        self.assertEqual(repr(decode(encode(pdu))), repr(pdu))

    def test_repeated(self) -> None:
        """
        Values that repeat take 2 bits a track.
        """
        tracks = tuple(Track(values.EPOCH_MS, None, None, ((1, 1.5), (2, "x" * 250))) for _ in range(200))
        self.assertLess(len(encode(values.TrackingData(WantAck.NONE, tracks))), 800)
