"""
Tests for L{binaryserver.mqtt.packets} and L{binaryserver.mqtt.parsers}.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.errors import MalformedPacket, PacketTooLarge, PeerError, ProtocolViolation
from binaryserver.mqtt import packets
from binaryserver.mqtt.events import Broken, Connect, Will
from binaryserver.mqtt.framing import Framing
from binaryserver.mqtt.packets import ConnectCode, Packet
from binaryserver.mqtt.parsers import FIRST_FROM_CLIENT, FROM_CLIENT, FROM_SERVER, ConnectRefused, Parsers
from tests.mqtt.samples import (
    AFTER_CONNECT,
    CONNECTS,
    FROM_CLIENT_TABLE,
    FROM_SERVER_TABLE,
    SERVED,
    encode,
)


def read(data: bytes, parsers: Parsers = FROM_CLIENT) -> list[Packet | Broken]:
    """
    What a framing makes of C{data}.
    """
    return Framing(parsers, 262144).feed(data)


class TableTests(SynchronousTestCase):
    """
    Every packet of both directions by its bytes.
    """

    def test_parsed(self) -> None:
        """
        Each sample is read as the packet that it is, and C{mixed} tells plain QoS 1 PUBLISHes from the rest.
        """
        for table, parsers in ((FROM_CLIENT_TABLE, FROM_CLIENT), (FROM_SERVER_TABLE, FROM_SERVER)):
            for text, packet in table:
                framing = Framing(parsers, 262144)
                self.assertEqual(framing.feed(bytes.fromhex(text)), [packet], text)
                self.assertIs(type(packet), type(read(bytes.fromhex(text), parsers)[0]), text)
                self.assertIs(framing.mixed, not text.startswith("32"), text)

    def test_encoded(self) -> None:
        """
        Each packet is encoded as its sample.
        """
        for text, packet in (*FROM_CLIENT_TABLE, *FROM_SERVER_TABLE):
            self.assertEqual(encode(packet).hex(), bytes.fromhex(text).hex(), packet)

    def test_everyTypeIsThere(self) -> None:
        """
        The tables leave no packet out that a side may send.
        """
        for table, parsers in ((FROM_CLIENT_TABLE, FROM_CLIENT), (FROM_SERVER_TABLE, FROM_SERVER)):
            self.assertEqual({bytes.fromhex(text)[0] >> 4 for text, _ in table}, {first >> 4 for first in parsers})

    def test_cutShort(self) -> None:
        """
        A sample whose body is cut at any byte, with a length that says so, is either another packet or refused with a
        typed error.
        """
        for table, parsers in ((FROM_CLIENT_TABLE, FROM_CLIENT), (FROM_SERVER_TABLE, FROM_SERVER)):
            for text, packet in table:
                whole = bytes.fromhex(text)
                for length in range(len(whole) - 2):
                    (got,) = read(bytes((whole[0], length)) + whole[2 : 2 + length], parsers)
                    self.assertNotEqual(got, packet)
                    if isinstance(got, Broken):
                        self.assertIsInstance(got.error, (MalformedPacket, ProtocolViolation))
                    else:
                        self.assertIn(whole[0] >> 4, (3, 8, 9, 10))

    def test_tooLong(self) -> None:
        """
        A byte too many is refused in every packet that does not end with bytes of the sender's choice.
        """
        for table, parsers in ((FROM_CLIENT_TABLE, FROM_CLIENT), (FROM_SERVER_TABLE, FROM_SERVER)):
            for text, _ in table:
                whole = bytes.fromhex(text)
                if whole[0] >> 4 in (3, 9):
                    continue
                (got,) = read(bytes((whole[0], whole[1] + 1)) + whole[2:] + b"\0", parsers)
                assert isinstance(got, Broken), (text, got)
                self.assertIsInstance(got.error, MalformedPacket)

    @settings(deadline=None)
    @given(CONNECTS | AFTER_CONNECT)
    def test_clientRoundTrip(self, packet: Packet) -> None:
        """
        What a client encodes, the server reads.
        """
        self.assertEqual(read(encode(packet)), [packet])

    @settings(deadline=None)
    @given(SERVED)
    def test_serverRoundTrip(self, packet: Packet) -> None:
        """
        What the server encodes, a client reads.
        """
        self.assertEqual(read(encode(packet), FROM_SERVER), [packet])


class EncodeTests(SynchronousTestCase):
    """
    The making of packets.
    """

    def test_pubacks(self) -> None:
        """
        Many PUBACKs are single ones in their order [MQTT-4.6.0-2], each with its PUBLISH's id [MQTT-2.3.1-6].
        """
        ids = [1, 65535, 2, 256, 2]
        self.assertEqual(packets.encodePubacks(ids), b"".join(map(packets.encodePuback, ids)))
        self.assertEqual(packets.encodePubacks([]), b"")

    def test_lengths(self) -> None:
        """
        The remaining length has as many bytes as it needs, at the borders that section 2.2.3 names.
        """
        for length, header in (
            (127, "7f"),
            (128, "8001"),
            (16383, "ff7f"),
            (16384, "808001"),
            (2097151, "ffff7f"),
            (2097152, "80808001"),
        ):
            encoded = packets.encodePublish("t", bytes(length - 3))
            self.assertEqual(encoded[: 1 + len(header) // 2].hex(), "30" + header)
            self.assertEqual(len(encoded), 1 + len(header) // 2 + length)
            (got,) = Framing(FROM_CLIENT, 1 << 28).feed(encoded)
            self.assertEqual(got, (("t", bytes(length - 3), 0, 0, False, False)))

    def test_ownMistakes(self) -> None:
        """
        What no packet can hold is a ValueError here, since it is not the peer's fault; a topic of more than 65,535
        bytes, for one [MQTT-4.7.3-3].
        """
        cases: tuple[tuple[Callable[..., bytes], tuple[Any, ...]], ...] = (
            (packets.encodePublish, ("t/#", b"")),
            (packets.encodePublish, ("", b"")),
            (packets.encodePublish, ("t\0", b"")),
            (packets.encodePublish, ("\ud800", b"")),
            (packets.encodePublish, ("t" * 65536, b"")),
            (packets.encodePublish, ("t", b"", 3, 1)),
            (packets.encodePublish, ("t", b"", 1, 0)),
            (packets.encodePublish, ("t", b"", 1, 65536)),
            (packets.encodePublish, ("t", b"", 0, 1)),
            (packets.encodePublish, ("t", b"", 0, 0, True)),
            (packets.encodePuback, (0,)),
            (packets.encodeSubscribe, (1, ())),
            (packets.encodeSubscribe, (1, (("a#", 0),))),
            (packets.encodeSubscribe, (1, (("a", 3),))),
            (packets.encodeUnsubscribe, (1, ())),
            (packets.encodeUnsubscribe, (1, ("+a",))),
            (packets.encodeSuback, (1, ())),
            (packets.encodeSuback, (1, (3,))),
            (packets.encodeConnack, (True, 5)),
            (packets.encodeConnect, ("box", True, 0, None, b"secret")),
            (packets.encodeConnect, ("", False)),
            (packets.encodeConnect, ("box", True, 65536)),
            (packets.encodeConnect, ("box", True, 0, None, None, Will("w/+", b"", 0, False))),
            (packets.encodeConnect, ("box", True, 0, None, None, Will("w", b"", 3, False))),
        )
        for encoder, arguments in cases:
            self.assertRaises(ValueError, encoder, *arguments)


class RefusalTests(SynchronousTestCase):
    """
    Packets that no correct peer sends.
    """

    def refused(self, text: str, kind: type[PeerError], clause: str, parsers: Parsers = FROM_CLIENT) -> PeerError:
        """
        Assert that the bytes C{text} (hex) are refused with an error of just that kind and clause.
        """
        got = read(bytes.fromhex(text), parsers)
        self.assertEqual(len(got), 1, text)
        broken = got[0]
        assert isinstance(broken, Broken), (text, got)
        self.assertIs(type(broken.error), kind, text)
        self.assertEqual(broken.error.clause, clause, text)
        self.assertIsNone(broken.error.__traceback__)
        return broken.error

    def test_reservedFlags(self) -> None:
        """
        Flags in the first byte are as table 2.2 has them [MQTT-2.2.2-1], or the link is closed [MQTT-2.2.2-2],
        [MQTT-3.6.1-1], [MQTT-3.8.1-1], [MQTT-3.10.1-1], [MQTT-3.14.1-1].
        """
        clauses = {6: "MQTT-3.6.1-1", 8: "MQTT-3.8.1-1", 10: "MQTT-3.10.1-1", 14: "MQTT-3.14.1-1"}
        for code in (1, 4, 5, 6, 7, 8, 10, 12, 14):
            right = 2 if code in (6, 8, 10) else 0
            for flags in range(16):
                if flags != right:
                    first = f"{code << 4 | flags:02x}"
                    self.refused(first, MalformedPacket, clauses.get(code, "MQTT-2.2.2-2"))

    def test_reservedTypes(self) -> None:
        """
        Types 0 and 15 are nobody's.
        """
        for first in (*range(0x00, 0x10), *range(0xF0, 0x100)):
            for parsers in (FROM_CLIENT, FROM_SERVER, FIRST_FROM_CLIENT):
                self.refused(f"{first:02x}", MalformedPacket, "", parsers)

    def test_otherSidesPackets(self) -> None:
        """
        A client does not send what a server sends, nor the other way [MQTT-4.8.0-1].
        """
        for first in ("20", "90", "b0", "d0"):
            self.refused(first, ProtocolViolation, "MQTT-4.8.0-1")
        for first in ("10", "82", "a2", "c0", "e0"):
            self.refused(first, ProtocolViolation, "MQTT-4.8.0-1", FROM_SERVER)

    def test_firstPacket(self) -> None:
        """
        Any other first packet than CONNECT is refused at its first byte [MQTT-3.1.0-1].
        """
        for code in (*range(2, 15),):
            self.refused(f"{code << 4 | 2:02x}", ProtocolViolation, "MQTT-3.1.0-1", FIRST_FROM_CLIENT)

    def test_packetIdZero(self) -> None:
        """
        No packet id is 0 [MQTT-2.3.1-1].
        """
        for text in (
            "3205 0001 74 0000",
            "3a05 0001 74 0000",
            "3405 0001 74 0000",
            "4002 0000",
            "5002 0000",
            "6202 0000",
            "7002 0000",
            "8206 0000 0001 64 01",
            "a205 0000 0001 64",
        ):
            self.refused(text, MalformedPacket, "MQTT-2.3.1-1")

    def test_publish(self) -> None:
        """
        PUBLISH: QoS 3 [MQTT-3.3.1-4], DUP with QoS 0 [MQTT-3.3.1-2], no topic first [MQTT-3.3.2-1], wildcards
        [MQTT-3.3.2-2], ill-formed and empty names [MQTT-4.7.3-1].
        """
        for first in ("36", "37", "3e", "3f"):
            self.refused(f"{first}05 0001 74 0001", MalformedPacket, "MQTT-3.3.1-4")
        for first in ("38", "39"):
            self.refused(f"{first}03 0001 74", MalformedPacket, "MQTT-3.3.1-2")
        for first in ("30", "32", "34", "3a"):
            self.refused(f"{first}00", MalformedPacket, "")
            self.refused(f"{first}01 00", MalformedPacket, "")
            self.refused(f"{first}05 0004 74 0001", MalformedPacket, "")
            self.refused(f"{first}05 ffff 74 0001", MalformedPacket, "")
            self.refused(f"{first}05 0001 23 0001", ProtocolViolation, "MQTT-3.3.2-2")
            self.refused(f"{first}06 0002 2f2b 0001", ProtocolViolation, "MQTT-3.3.2-2")
            self.refused(f"{first}05 0001 ff 0001", MalformedPacket, "MQTT-1.5.3-1")
            self.refused(f"{first}05 0001 00 0001", MalformedPacket, "MQTT-1.5.3-2")
            self.refused(f"{first}05 0000 0001 61", MalformedPacket, "MQTT-4.7.3-1")
        self.refused("3203 0001 74", MalformedPacket, "")
        self.refused("3204 0001 74 00", MalformedPacket, "")

    def test_qos0HasNoPacketId(self) -> None:
        """
        With QoS 0 what follows the topic is payload [MQTT-2.3.1-5].
        """
        self.assertEqual(read(bytes.fromhex("3005 0001 74 0001")), [("t", b"\x00\x01", 0, 0, False, False)])

    def test_subscribe(self) -> None:
        """
        SUBSCRIBE: no filters [MQTT-3.8.3-3], ill-formed ones [MQTT-3.8.3-1], a QoS that is none or reserved bits
        [MQTT-3-8.3-4], wildcards out of place.
        """
        self.refused("8202 0001", ProtocolViolation, "MQTT-3.8.3-3")
        self.refused("8205 0001 0001 64", MalformedPacket, "MQTT-3.8.3-3")
        self.refused("8206 0001 0001 ff 01", MalformedPacket, "MQTT-1.5.3-1")
        self.refused("8205 0001 0000 01", MalformedPacket, "MQTT-4.7.3-1")
        for qos in ("03", "04", "80", "81", "ff"):
            self.refused(f"8206 0001 0001 64 {qos}", MalformedPacket, "MQTT-3-8.3-4")
        self.refused("8207 0001 0002 6423 01", ProtocolViolation, "MQTT-4.7.1-2")
        self.refused("8207 0001 0002 642b 01", ProtocolViolation, "MQTT-4.7.1-3")
        # A bad second filter spoils the packet.
        self.refused("820a 0001 0001 64 01 0001 64 03", MalformedPacket, "MQTT-3-8.3-4")

    def test_unsubscribe(self) -> None:
        """
        UNSUBSCRIBE: no filters [MQTT-3.10.3-2], ill-formed ones [MQTT-3.10.3-1].
        """
        self.refused("a202 0001", ProtocolViolation, "MQTT-3.10.3-2")
        self.refused("a205 0001 0001 ff", MalformedPacket, "MQTT-1.5.3-1")
        self.refused("a204 0001 0000", MalformedPacket, "MQTT-4.7.3-1")
        self.refused("a206 0001 0001 64 00", MalformedPacket, "")

    def test_protocolName(self) -> None:
        """
        Another protocol's name is refused, and not as a matter of MQTT's return codes [MQTT-3.1.2-1].
        """
        for text in ("1008 0006 4d5149736470", "100c 0004 4d515455 04 02 0000 0000", "1006 0004 6d717474", "1002 0000"):
            self.refused(text, MalformedPacket, "MQTT-3.1.2-1")

    def test_protocolLevel(self) -> None:
        """
        Other levels are refused with return code 1 [MQTT-3.1.2-2], however the rest of that level's CONNECT looks.
        """
        for level in (0, 3, 5, 0x84, 255):
            for rest in ("", "02", "02 0000 0000", "02 0000 00 0000"):
                body = bytes.fromhex(f"0004 4d515454 {level:02x} {rest}")
                error = self.refused(bytes((0x10, len(body), *body)).hex(), ConnectRefused, "MQTT-3.1.2-2")
                assert isinstance(error, ConnectRefused)
                self.assertIs(error.code, ConnectCode.UNACCEPTABLE_PROTOCOL)

    def test_connectFlags(self) -> None:
        """
        CONNECT's flags: the reserved one [MQTT-3.1.2-3]; without a will no will QoS [MQTT-3.1.2-13] and no retain
        [MQTT-3.1.2-15], so that [MQTT-3.1.2-11] holds; with one no QoS 3 [MQTT-3.1.2-14]; no password without a user
        name [MQTT-3.1.2-22].
        """
        for flags, clause in (
            (0x03, "MQTT-3.1.2-3"),
            (0x0A, "MQTT-3.1.2-13"),
            (0x12, "MQTT-3.1.2-13"),
            (0x22, "MQTT-3.1.2-15"),
            (0x1E, "MQTT-3.1.2-14"),
            (0x42, "MQTT-3.1.2-22"),
        ):
            text = f"1016 0004 4d515454 04 {flags:02x} 0000 0001 62 0001 77 0001 78 0001 79"
            self.refused(text, MalformedPacket, clause)

    def test_connectFields(self) -> None:
        """
        The fields that the flags announce are there in their order and no others are [MQTT-3.1.3-1], the client id
        first [MQTT-3.1.3-3]: [MQTT-3.1.2-9], [MQTT-3.1.2-18], [MQTT-3.1.2-19], [MQTT-3.1.2-20],
        [MQTT-3.1.2-21].
        """
        for flags, fields in ((0x02, 1), (0x06, 3), (0x82, 2), (0xC2, 3), (0xC6, 5)):
            for count in range(7):
                body = bytes.fromhex(f"0004 4d515454 04 {flags:02x} 0000") + b"\0\1a" * count
                (got,) = read(bytes((0x10, len(body), *body)))
                self.assertIs(isinstance(got, Broken), count != fields, (flags, count))

    def test_connectStrings(self) -> None:
        """
        Client id [MQTT-3.1.3-4], will topic [MQTT-3.1.3-10] and user name [MQTT-3.1.3-11] are UTF-8, the will's topic
        is a topic name; will message and password are any bytes.
        """
        self.refused("100d 0004 4d515454 04 02 0000 0001 ff", MalformedPacket, "MQTT-1.5.3-1")
        self.refused("1010 0004 4d515454 04 82 0000 0001 62 0001 ff", MalformedPacket, "MQTT-1.5.3-1")
        self.refused("1013 0004 4d515454 04 06 0000 0001 62 0001 ff 0001 78", MalformedPacket, "MQTT-1.5.3-1")
        self.refused("1013 0004 4d515454 04 06 0000 0001 62 0001 23 0001 78", ProtocolViolation, "MQTT-3.3.2-2")
        self.refused("1012 0004 4d515454 04 06 0000 0001 62 0000 0001 78", MalformedPacket, "MQTT-4.7.3-1")

    def test_emptyClientId(self) -> None:
        """
        Without a client id a session cannot be kept [MQTT-3.1.3-7]: return code 2 [MQTT-3.1.3-8].
        """
        error = self.refused("100c 0004 4d515454 04 00 0000 0000", ConnectRefused, "MQTT-3.1.3-8")
        assert isinstance(error, ConnectRefused)
        self.assertIs(error.code, ConnectCode.IDENTIFIER_REJECTED)

    def test_clientIds(self) -> None:
        """
        Every client id of letters and digits up to 23 bytes is read [MQTT-3.1.3-5], and so are longer ones.
        """
        alphabet = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
        for clientId in (*alphabet, alphabet[:23], alphabet, "x" * 3000, "a-b_c.d:e f"):
            (got,) = read(packets.encodeConnect(clientId))
            assert isinstance(got, Connect)
            self.assertEqual(got.clientId, clientId)

    def test_connack(self) -> None:
        """
        CONNACK, at the client's side: reserved flags and codes, a session present with a refusal [MQTT-3.2.2-4].
        """
        self.refused("2002 02 00", MalformedPacket, "", FROM_SERVER)
        self.refused("2002 00 06", MalformedPacket, "", FROM_SERVER)
        self.refused("2002 01 01", MalformedPacket, "MQTT-3.2.2-4", FROM_SERVER)
        self.refused("2001 00", MalformedPacket, "", FROM_SERVER)

    def test_suback(self) -> None:
        """
        SUBACK, at the client's side: only the return codes that there are [MQTT-3.9.3-2], and one at least.
        """
        for code in ("03", "7f", "81"):
            self.refused(f"9003 0001 {code}", MalformedPacket, "MQTT-3.9.3-2", FROM_SERVER)
        self.refused("9002 0001", MalformedPacket, "MQTT-3.8.4-5", FROM_SERVER)

    def test_fiveByteLength(self) -> None:
        """
        A length that goes on after four bytes is refused at the fourth.
        """
        for text in ("30 ffffffff", "10 80808080", "30 80808080 01"):
            self.refused(text, MalformedPacket, "")

    def test_tooLarge(self) -> None:
        """
        A packet beyond the limit is refused when its length is known; the limit counts its fixed header.
        """
        for text in ("30 ffffff7f", "30 808010"):
            self.refused(text, PacketTooLarge, "")
        whole = packets.encodePublish("t", bytes(200))
        self.assertEqual(len(Framing(FROM_CLIENT, len(whole)).feed(whole)), 1)
        (got,) = Framing(FROM_CLIENT, len(whole) - 1).feed(whole[:3])
        assert isinstance(got, Broken)
        self.assertIsInstance(got.error, PacketTooLarge)
        (got,) = Framing(FROM_CLIENT, 9).feed(packets.encodePublish("t", b"12345", 1, 1))
        assert isinstance(got, Broken)
        self.assertIsInstance(got.error, PacketTooLarge)
