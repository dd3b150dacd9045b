"""
Tests for L{binaryserver.session.redisreplies}, L{binaryserver.session.redistext}, L{binaryserver.session.redismail} and
L{binaryserver.session.redissettings}: what needs no server.
"""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.errors import ConfigError, StoreError, StoreNotAsked, StoreUnavailable
from binaryserver.model import BoxKey, MqttSession, StreamMark
from binaryserver.session.redismail import MOST_AT_ONCE, chunks, joined
from binaryserver.session.redisreplies import ErrorReply, ReplyParser
from binaryserver.session.redissettings import parseSpec
from binaryserver.session.redistext import boxName, boxOfName, escape, marksOf, packMqtt, unescape, unpackMqtt

replies = st.recursive(
    st.none() | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=100),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


def encode(reply: object) -> bytes:
    """
    As Redis says it.
    """
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, bytes):
        return b"$%d\r\n%s\r\n" % (len(reply), reply)
    assert isinstance(reply, list)
    return b"*%d\r\n" % len(reply) + b"".join(map(encode, reply))


def depth(reply: object) -> int:
    """
    How deep lists are in lists.
    """
    return 1 + max(map(depth, reply), default=0) if isinstance(reply, list) else 0


class ReplyParserTests(SynchronousTestCase):
    """
    Bytes to replies.
    """

    @given(st.lists(replies.filter(lambda reply: depth(reply) < 8), max_size=5), st.data())
    def test_splits(self, wanted: list[object], data: st.DataObject) -> None:
        """
        However the bytes are cut, the same replies come, each as soon as it is whole.
        """
        whole = b"".join(map(encode, wanted))
        cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
        parser, found = ReplyParser(), []
        for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
            found += parser.feed(whole[start:end])
        self.assertEqual(found, wanted)
        self.assertEqual(parser.feed(b""), [])

    def test_byteByByte(self) -> None:
        """
        Lines, errors and empty ones.
        """
        parser, found = ReplyParser(), []
        for byte in b"+OK\r\n-NOSCRIPT none \xff\r\n$0\r\n\r\n*0\r\n*-1\r\n*2\r\n$3\r\na\r\n\r\n-ERR x\r\n":
            found += parser.feed(bytes([byte]))
        error = found.pop(1)
        assert isinstance(error, ErrorReply)
        self.assertEqual((error.code, str(error)), ("NOSCRIPT", "NOSCRIPT none \ufffd"))
        last = found.pop()
        assert isinstance(last, list)
        self.assertEqual((last[0], str(last[1])), (b"a\r\n", "ERR x"))
        self.assertEqual(found, [b"OK", b"", [], None])

    def test_notRedis(self) -> None:
        """
        What Redis never says is an error, and needs no memory.
        """
        for data in (
            b"HTTP/1.1 400 Bad Request\r\n",
            b"SSH-2.0-x",
            b"$x\r\n",
            b"$-2\r\n",
            b"$99999999999999\r\n",
            b"*99999999999999\r\n",
            b":1.5\r\n",
            b"$1\r\nab\r\n",
            b"*1\r\n" * 20,
            b"+" + b"x" * 70_000,
        ):
            self.assertRaises(StoreError, ReplyParser().feed, data)

    @given(st.binary(max_size=60))
    def test_anything(self, data: bytes) -> None:
        """
        Whatever comes, there is an error of that kind or none.
        """
        try:
            ReplyParser().feed(data)
        except StoreError:
            return

    def test_largeInPieces(self) -> None:
        """
        A large text that comes in many pieces is looked at once it is there.
        """
        parser, text = ReplyParser(), bytes(range(256)) * 8192
        whole = encode([text, 7])
        found: list[object] = []
        for start in range(0, len(whole), 4096):
            found += parser.feed(whole[start : start + 4096])
        self.assertEqual(found, [[text, 7]])


class TextTests(SynchronousTestCase):
    """
    Texts in Redis.
    """

    @given(st.text())
    def test_escape(self, text: str) -> None:
        """
        Any text is ASCII without line feeds, and comes back.
        """
        escaped = escape(text)
        self.assertTrue(escaped.isascii() and "\n" not in escaped and "\t" not in escaped)
        self.assertEqual(unescape(escaped), text)

    @given(st.text(), st.text())
    def test_boxName(self, account: str, asset: str) -> None:
        """
        Two boxes have two names, whatever accounts and assets are called.
        """
        box = BoxKey(account, asset)
        self.assertEqual(boxOfName(boxName(box)), box)
        self.assertEqual(boxName(BoxKey("acme", "box-1")), "acme/box-1")

    def test_marks(self) -> None:
        """
        None, and several.
        """
        self.assertEqual(marksOf(""), ())
        self.assertEqual(
            marksOf("1 2 3,18446744073709551615 0 -5"), (StreamMark(1, 2, 3), StreamMark(2**64 - 1, 0, -5))
        )

    def test_mqtt(self) -> None:
        """
        None, an empty one, a full one, a spoilt one.
        """
        for session in (None, MqttSession(), MqttSession((("ünï\n", 1), ("#", 0)), (1, 65_535))):
            self.assertEqual(unpackMqtt(packMqtt(session)), session)
        for text in ("[1", "7", "[[1], []]"):
            self.assertRaises((ValueError, TypeError), unpackMqtt, text)


class BatchTests(SynchronousTestCase):
    """
    Batches in parts.
    """

    @given(st.lists(st.integers(0, 2_000_000), max_size=450))
    def test_chunks(self, sizes: list[int]) -> None:
        """
        Nothing is lost or moved; no part has too many, nor, unless it is one alone, too much.
        """
        parts = chunks(sizes, lambda size: size)
        self.assertEqual([size for part in parts for size in part], sizes)
        for part in parts:
            self.assertTrue(0 < len(part) <= MOST_AT_ONCE)
            self.assertTrue(len(part) == 1 or sum(part) <= 1_048_576)

    def test_joined(self) -> None:
        """
        Answers in order; of several parts one that was not asked leaves open what became of the others.
        """
        self.assertEqual(self.successResultOf(joined([])), [])
        self.assertEqual(self.successResultOf(joined([succeed([1, 2]), succeed([3])])), [1, 2, 3])
        self.failureResultOf(joined([fail(StoreNotAsked("away"))]), StoreNotAsked)
        both = self.failureResultOf(joined([succeed([1]), fail(StoreNotAsked("away"))]), StoreUnavailable)
        self.assertEqual((both.check(StoreNotAsked), str(both.value)), (None, "away"))
        self.failureResultOf(joined([fail(StoreError("x")), fail(StoreNotAsked("away"))]), StoreError)


class SettingsTests(SynchronousTestCase):
    """
    The option's value.
    """

    def test_whole(self) -> None:
        """
        Everything given, and nothing.
        """
        settings = parseSpec("redis://me:p%40ss@[::1]:7000/3?prefix=x:&timeout=0.5", "--sessions")
        self.assertEqual((settings.host, settings.port, settings.db), ("::1", 7000, 3))
        self.assertEqual((settings.user, settings.password), ("me", "p@ss"))
        self.assertEqual((settings.prefix, settings.timeout, settings.tls), ("x:", 0.5, None))
        self.assertEqual(settings.where, "redis://[::1]:7000/3")
        self.assertNotIn("p@ss", repr(settings))
        settings = parseSpec("rediss://host", "--sessions")
        self.assertEqual((settings.port, settings.db, settings.user, settings.password), (6379, 0, "", ""))
        self.assertEqual((settings.prefix, settings.timeout), ("binaryserver:", 5.0))
        self.assertIsNotNone(settings.tls)
        self.assertEqual(settings.where, "rediss://host:6379/0")

    def test_passwordFile(self) -> None:
        """
        The password may be the one line of a file, with a user or without.
        """
        path = Path(self.mktemp()).absolute()
        path.write_text("p@ss/w?rd\n")
        for user in ("", "me"):
            at = "@" if user else ""
            settings = parseSpec(f"redis://{user}{at}host:1/0?password-file={path}", "--sessions")
            self.assertEqual((settings.user, settings.password), (user, "p@ss/w?rd"))

    def test_wrong(self) -> None:
        """
        Each is named, and no password is quoted.
        """
        for spec, words in (
            ("redis:", "the form is"),
            ("redis://", "the form is"),
            ("redis://:secret@host:port/0", "the form is"),
            ("redis://:secret@host:70000/0", "the form is"),
            ("redis://:secret@host:0/0", "port"),
            ("redis://user@host:1/0", "a user needs a password"),
            ("redis://:secret@host:1/x", "is not the number of a database"),
            ("redis://:secret@host:1/-1", "is not the number of a database"),
            ("redis://:secret@host:1/0?x", "is not option=value"),
            ("redis://:secret@host:1/0?x=1", "no option 'x'"),
            ("redis://:secret@host:1/0?prefix=", "prefix is empty"),
            ("redis://:secret@host:1/0?prefix=a&prefix=b", "given twice"),
            ("redis://:secret@host:1/0?timeout=x", "timeout is 'x'"),
            ("redis://:secret@host:1/0?timeout=nan", "timeout is 'nan'"),
            ("redis://:secret@host:1/0?timeout=0", "timeout is '0'"),
            ("redis://:secret@host:1/0?ca=x", "ca needs TLS"),
            ("redis://:secret@host:1/0#x", "the form is"),
            ("redis://:sec/secret@host/0", "percent-encoded"),
            ("redis://:secret/t@host/0", "percent-encoded"),
            ("redis://me:12?secret@host/0", "percent-encoded"),
            ("redis://me:12?secret=x@host/0", "percent-encoded"),
            ("redis://:secret@host:1/0?password-file=/none/such", "do not go together"),
            ("redis://host:1/0?password-file=/none/such", "password-file: cannot read /none/such: No such file"),
        ):
            error = self.assertRaises(ConfigError, parseSpec, spec, "--sessions")
            self.assertIn(words, str(error), spec)
            self.assertTrue(str(error).startswith("--sessions: "), spec)
            self.assertNotIn("secret", str(error))
