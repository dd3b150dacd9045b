"""
Tests for L{binaryserver.mqtt.topics}.
"""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.errors import MalformedPacket, PeerError, ProtocolViolation
from binaryserver.mqtt.topics import TopicNames, checkFilter, checkName, decodeString, matches
from tests.mqtt.samples import FILTERS, NAMES


class StringTests(SynchronousTestCase):
    """
    UTF-8 as MQTT has it.
    """

    def test_illFormed(self) -> None:
        """
        What is not UTF-8, overlong forms and encoded surrogates are refused [MQTT-1.5.3-1], without the peer's bytes
        hanging on the error.
        """
        for raw in (b"\xff", b"a\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xf4\x90\x80\x80", b"\x00\xff"):
            error = self.assertRaises(MalformedPacket, decodeString, raw)
            self.assertEqual(error.clause, "MQTT-1.5.3-1")
            self.assertIsNone(error.__context__)

    def test_null(self) -> None:
        """
        U+0000 is refused wherever it stands [MQTT-1.5.3-2], [MQTT-4.7.3-2].
        """
        for raw in (b"\0", b"a\0", b"\0a"):
            self.assertEqual(self.assertRaises(MalformedPacket, decodeString, raw).clause, "MQTT-1.5.3-2")

    def test_byteOrderMark(self) -> None:
        """
        U+FEFF is a character like others, and is not stripped [MQTT-1.5.3-3].
        """
        self.assertEqual(decodeString(b"\xef\xbb\xbfbox"), "\ufeffbox")

    def test_whatMayStay(self) -> None:
        """
        Control characters and non-characters, which MQTT only advises against, stay.
        """
        self.assertEqual(decodeString("\x01\x7f\uffff\U0010ffff".encode()), "\x01\x7f\uffff\U0010ffff")


class NameTests(SynchronousTestCase):
    """
    Topic names.
    """

    def test_empty(self) -> None:
        """
        A name and a filter have a character at least [MQTT-4.7.3-1].
        """
        for check in (checkName, checkFilter):
            self.assertEqual(self.assertRaises(MalformedPacket, check, "").clause, "MQTT-4.7.3-1")

    def test_wildcards(self) -> None:
        """
        A name has no wildcards [MQTT-3.3.2-2], [MQTT-4.7.1-1].
        """
        for name in ("#", "+", "t/#", "t/+/x", "a+b", "a#"):
            self.assertEqual(self.assertRaises(ProtocolViolation, checkName, name).clause, "MQTT-3.3.2-2")

    def test_good(self) -> None:
        """
        Spaces, empty levels and C{$} are a name's own business.
        """
        for name in ("/", "//", "a b", "$SYS/x", "t"):
            self.assertEqual(checkName(name), name)


class FilterTests(SynchronousTestCase):
    """
    Topic filters.
    """

    def test_multiLevel(self) -> None:
        """
        C{#} is a whole level and the last one [MQTT-4.7.1-2].
        """
        for good in ("#", "a/#", "/#", "+/#", "a/+/#"):
            self.assertEqual(checkFilter(good), good)
        for bad in ("a#", "#/a", "a/#/b", "##", "#a", "a/b#", "a/#/", "+#"):
            self.assertEqual(self.assertRaises(ProtocolViolation, checkFilter, bad).clause, "MQTT-4.7.1-2", bad)

    def test_singleLevel(self) -> None:
        """
        C{+} is a whole level, wherever it stands [MQTT-4.7.1-3].
        """
        for good in ("+", "a/+", "+/a", "a/+/b", "/+", "+/+"):
            self.assertEqual(checkFilter(good), good)
        for bad in ("a+", "+a", "a/b+/c", "++", "a/+b"):
            self.assertEqual(self.assertRaises(ProtocolViolation, checkFilter, bad).clause, "MQTT-4.7.1-3", bad)


class MatchTests(SynchronousTestCase):
    """
    Which topics a filter takes in.
    """

    def test_table(self) -> None:
        """
        The cases of MQTT's section 4.7, and those at their edges.
        """
        for topicFilter, topic, expected in (
            ("a", "a", True),
            ("a", "A", False),
            ("a", "a/", False),
            ("a/", "a", False),
            ("#", "a/b/c", True),
            ("#", "/", True),
            ("a/#", "a", True),
            ("a/#", "a/", True),
            ("a/#", "a/b/c", True),
            ("a/#", "ab", False),
            ("+", "a", True),
            ("+", "a/b", False),
            ("+", "/a", False),
            ("+/+", "/a", True),
            ("/+", "/a", True),
            ("a/+", "a", False),
            ("a/+", "a/", True),
            ("a/+/c", "a/b/c", True),
            ("a/+/c", "a/b/d", False),
            ("a/+/#", "a/b", True),
            ("a/+/#", "a", False),
            ("+/b/#", "a/b/c/d", True),
        ):
            self.assertIs(matches(topicFilter, topic), expected, (topicFilter, topic))

    def test_dollar(self) -> None:
        """
        A wildcard at a filter's start takes in no topic that starts with C{$} [MQTT-4.7.2-1]; one later does.
        """
        for topicFilter, topic, expected in (
            ("#", "$SYS/a", False),
            ("+/a", "$SYS/a", False),
            ("$SYS/#", "$SYS/a", True),
            ("$SYS/+", "$SYS/a", True),
            ("a/+", "a/$b", True),
        ):
            self.assertIs(matches(topicFilter, topic), expected, (topicFilter, topic))

    def test_nothingIsNormalized(self) -> None:
        """
        Characters that look alike, or that Unicode can write in two ways, stay apart [MQTT-4.7.3-4].
        """
        self.assertFalse(matches("caf\u00e9", "cafe\u0301"))
        self.assertFalse(matches("a//b", "a/b"))
        self.assertFalse(matches("\ufefft", "t"))

    @settings(deadline=None)
    @given(FILTERS, NAMES)
    def test_asARegularExpression(self, topicFilter: str, topic: str) -> None:
        """
        The same answer as a regular expression made of the filter gives.
        """
        levels = ["[^/]*" if level == "+" else re.escape(level) for level in topicFilter.split("/") if level != "#"]
        pattern = "/".join(levels)
        if topicFilter.split("/")[-1] == "#":
            pattern = f"{pattern}(/.*)?" if levels else ".*"
        expected = re.fullmatch(pattern, topic, re.DOTALL) is not None
        if topic.startswith("$") and topicFilter[0] in "+#":
            expected = False
        self.assertIs(matches(checkFilter(topicFilter), topic), expected)

    @settings(deadline=None)
    @given(NAMES)
    def test_itself(self, topic: str) -> None:
        """
        A name is a filter that takes in itself.
        """
        self.assertTrue(matches(checkFilter(topic), topic))


class TopicNamesTests(SynchronousTestCase):
    """
    The memory of checked names.
    """

    def test_remembers(self) -> None:
        """
        A name is checked once and is then the same object.
        """
        names = TopicNames()
        self.assertIs(names[b"boxes/x/tracks"], names[b"boxes/" + b"x/tracks"])
        self.assertEqual(len(names), 1)

    def test_refuses(self) -> None:
        """
        What is refused is refused again, and is not remembered.
        """
        names = TopicNames()
        for raw in (b"", b"#", b"\xff", b"\0") * 2:
            self.assertRaises(PeerError, names.__getitem__, raw)
        self.assertEqual(len(names), 0)

    def test_bounded(self) -> None:
        """
        Neither many names nor long ones make it grow beyond its bounds; it goes on working.
        """
        names = TopicNames()
        for number in range(names.MOST * 2 + 10):
            names[b"attack/%d" % number]
            self.assertLessEqual(len(names), names.MOST)
        before = len(names)
        self.assertEqual(names[b"x" * 65535], "x" * 65535)
        self.assertEqual(len(names), before)
        self.assertEqual(names[b"t"], "t")

    @settings(deadline=None)
    @given(st.binary(max_size=20))
    def test_asUnremembered(self, raw: bytes) -> None:
        """
        The outcome is that of the checks, whatever the bytes.
        """
        try:
            expected = checkName(decodeString(raw))
        except PeerError as error:
            self.assertEqual(str(self.assertRaises(type(error), TopicNames().__getitem__, raw)), str(error))
        else:
            self.assertEqual(TopicNames()[raw], expected)
