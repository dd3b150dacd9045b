"""
Tests for L{binaryserver.ops.tokens}.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.errors import ConfigError
from binaryserver.ops.tokens import TokenFile, readTokens
from tests.certificates import replaceFile

FIRST = b"first-0123456789abcdefghijklmnopqr"
SECOND = b"second/0123456789+ABCDEFGHIJKLM~._=="


class TokensCase(SynchronousTestCase):
    """
    Writes files of tokens.
    """

    def write(self, content: bytes) -> str:
        """
        A file.
        """
        path = Path(self.mktemp()).absolute()
        path.write_bytes(content)
        return str(path)


class ReadTokensTests(TokensCase):
    """
    L{readTokens}.
    """

    def test_lines(self) -> None:
        """
        One a line, however the lines end; what is empty or a comment means nothing.
        """
        tokens = readTokens(self.write(b"# ours\r\n\n " + FIRST + b" \r\n#" + b"x" * 40 + b"\n\t\n" + SECOND))
        self.assertEqual((tokens.good, tokens.bad, tokens.complaint), ((FIRST, SECOND), (), ""))

    def test_bad(self) -> None:
        """
        What is too short, too long or no token is told by its line, never by itself.
        """
        for line in (
            b"x" * 31,
            b"x" * 1025,
            b"x" * 32 + b"!",
            b"=" * 40,
            b"a=b" * 20,
            b"two " + b"x" * 40,
            b"\xff" * 40,
        ):
            tokens = readTokens(self.write(b"#\n" + line + b"\n" + FIRST))
            self.assertEqual((tokens.good, tokens.bad), ((FIRST,), (2,)), line)
            self.assertIn("line 2 is no token of 32 to 1024 characters", tokens.complaint)
            self.assertNotIn(line.decode("latin-1"), tokens.complaint)

    def test_bounds(self) -> None:
        """
        The shortest and the longest.
        """
        for size in (32, 1024):
            self.assertEqual(readTokens(self.write(b"y" * size)).good, (b"y" * size,))

    def test_none(self) -> None:
        """
        A file without any, and one that is too large to be one.
        """
        self.assertEqual(readTokens(self.write(b"# none yet\n")).complaint, "holds no token")
        self.assertRaises(ValueError, readTokens, self.write(b"#" * 65_537))
        self.assertRaises(OSError, readTokens, "/none/such")

    @given(st.binary(max_size=200))
    def test_anything(self, content: bytes) -> None:
        """
        Whatever stands there, a token is something that a header can carry, and of some length.
        """
        path = Path(self.mktemp())
        path.write_bytes(content)
        for token in readTokens(str(path)).good:
            self.assertTrue(len(token) >= 32 and token.decode("ascii").isprintable() and b" " not in token)


class TokenFileTests(TokensCase):
    """
    L{TokenFile}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.events: list[dict[str, Any]] = []
        observer: Any = self.events.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def opened(self, content: bytes) -> TokenFile:
        """
        One of a file of that content.
        """
        self.path = self.write(content)
        clock: Any = self.clock
        return TokenFile(self.path, "--http-token-file", clock)

    def test_holds(self) -> None:
        """
        Each that stands there, whole, and nothing else.
        """
        tokens = self.opened(FIRST + b"\n" + SECOND + b"\n")
        for token in (FIRST, SECOND):
            self.assertTrue(tokens.holds(token))
        for token in (b"", FIRST[:-1], FIRST + b"x", FIRST.upper(), FIRST + b"\n" + SECOND, b"#"):
            self.assertFalse(tokens.holds(token), token)

    def test_refused(self) -> None:
        """
        What cannot be used stops the start with one line that names the option and quotes no token.
        """
        for content, words in (
            (b"", "holds no token"),
            (b"short-but-secret", "line 1 is no token"),
            (FIRST + b"\nshort-but-secret\n", "line 2 is no token"),
            (b"#" * 70_000, "has more than 65536 bytes"),
        ):
            error = self.assertRaises(ConfigError, self.opened, content)
            self.assertIn(words, str(error))
            self.assertTrue(str(error).startswith(f"--http-token-file: {self.path}: "), error)
            self.assertNotIn("secret", str(error).replace(self.path, ""))
        clock: Any = self.clock
        error = self.assertRaises(ConfigError, TokenFile, "/none/such", "--http-token-file", clock)
        self.assertEqual(str(error), "--http-token-file: /none/such: No such file or directory")

    def test_changed(self) -> None:
        """
        A changed file counts within a second: new tokens are taken, and removed ones are not any more.
        """
        tokens = self.opened(FIRST)
        replaceFile(self.path, SECOND)
        self.clock.advance(1)
        self.assertEqual((tokens.holds(FIRST), tokens.holds(SECOND)), (False, True))

    def test_spoiled(self) -> None:
        """
        Of a file that has become bad, its good lines count and nothing else; of one that is gone or empty, nothing does
        until it is there again. The log tells why, without a token.
        """
        tokens = self.opened(FIRST + b"\n" + SECOND)
        for content, words in (
            (b"short-but-secret\n" + SECOND, "line 1 is no token"),
            (b"", "holds no token"),
            (b"#" * 70_000, "more than 65536"),
            (None, "No such file"),
        ):
            self.events.clear()
            if content is None:
                os.remove(self.path)
            else:
                replaceFile(self.path, content)
            self.clock.advance(1)
            self.assertFalse(tokens.holds(FIRST))
            self.assertEqual(tokens.holds(SECOND), content is not None and SECOND in content)
            shown = repr(self.events)
            self.assertIn(words, shown)
            for secret in (FIRST.decode(), SECOND.decode(), "short-but-secret"):
                self.assertNotIn(secret, shown)
        replaceFile(self.path, FIRST)
        self.clock.advance(1)
        self.assertTrue(tokens.holds(FIRST))

    def test_seldom(self) -> None:
        """
        The file is looked at no more than once a second, and read only when it has changed.
        """
        tokens = self.opened(FIRST)
        looked: list[Any] = []
        stat = os.stat

        def counted(path: Any, *arguments: Any, **named: Any) -> Any:
            looked.append(path)
            return stat(path, *arguments, **named)

        self.patch(os, "stat", counted)
        for _ in range(100):
            tokens.holds(FIRST)
            self.clock.advance(0.1)
        self.assertLessEqual(looked.count(self.path), 11)
        self.assertGreaterEqual(looked.count(self.path), 8)
        self.assertEqual([event for event in self.events if "read again" in str(event.get("log_format"))], [])
