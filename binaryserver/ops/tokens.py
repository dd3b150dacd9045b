"""
Bearer tokens, kept in a file.
"""

from __future__ import annotations

import hmac
import re
from hashlib import sha256
from typing import Final, NamedTuple

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from binaryserver.errors import ConfigError
from binaryserver.filestamp import stampIfThere

_LEAST: Final = 32
"""characters"""
_MOST: Final = 1024
"""characters"""
_MAX_FILE: Final = 65_536
"""bytes"""
_POLL_INTERVAL: Final = 1.0
"""s: the file is looked at again at most this often."""

# What may follow "Bearer" (RFC 6750, b64token).
_TOKEN: Final = re.compile(rb"[A-Za-z0-9._~+/-]+=*")


class Tokens(NamedTuple):
    """
    What a file of tokens holds: one a line; lines that are empty or begin with C{#} mean nothing.

    @ivar good: in their order
    @ivar bad: the numbers of the lines that are no tokens
    """

    good: tuple[bytes, ...]
    bad: tuple[int, ...]

    @property
    def complaint(self) -> str:
        """
        Why the file is not as it should be, without quoting it; empty: it is.
        """
        if self.bad:
            return (
                f"line {self.bad[0]} is no token of {_LEAST} to {_MOST} characters of A-Z a-z 0-9 . _ ~ + / - and = at "
                "its end"
            )
        return "" if self.good else "holds no token"


def readTokens(path: str) -> Tokens:
    """
    Read a file of tokens.

    @raise OSError: it cannot be read
    @raise ValueError: it is too large to be one
    """
    with open(path, "rb") as file:
        data = file.read(_MAX_FILE + 1)
    if len(data) > _MAX_FILE:
        raise ValueError(f"has more than {_MAX_FILE} bytes")
    good, bad = [], []
    for number, line in enumerate(data.splitlines(), 1):
        text = line.strip()
        if not text or text.startswith(b"#"):
            continue
        if _LEAST <= len(text) <= _MOST and _TOKEN.fullmatch(text):
            good.append(text)
        else:
            bad.append(number)
    return Tokens(tuple(good), tuple(bad))


class TokenFile:
    """
    Those of one file, as it is now: what it does not hold any more is not accepted any more, and of a file that cannot
    be read, nothing is.
    """

    log = Logger()

    def __init__(self, path: str, option: str, clock: IReactorTime) -> None:
        """
        @param option: the option that named it
        @raise ConfigError: it cannot be read, or a line of it is no token
        """
        self._path = path
        self._clock = clock
        self._seen = stampIfThere(path)
        try:
            tokens = readTokens(path)
        except OSError as error:
            raise ConfigError(option, f"{path}: {error.strerror}") from error
        except ValueError as error:
            raise ConfigError(option, f"{path}: {error}") from error
        if tokens.complaint:
            raise ConfigError(option, f"{path}: {tokens.complaint}")
        self._digests = _digests(tokens)
        self._nextPoll = clock.seconds() + _POLL_INTERVAL

    def holds(self, token: bytes) -> bool:
        """
        Whether it is one of them. Takes as long for any.
        """
        self._poll()
        digest = sha256(token).digest()
        found = False
        for known in self._digests:
            found |= hmac.compare_digest(known, digest)
        return found

    def _poll(self) -> None:
        now = self._clock.seconds()
        if now < self._nextPoll:
            return
        self._nextPoll = now + _POLL_INTERVAL
        stamp = stampIfThere(self._path)
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            tokens = readTokens(self._path)
            complaint = tokens.complaint
        except OSError as error:
            tokens, complaint = Tokens((), ()), str(error.strerror)
        except ValueError as error:
            tokens, complaint = Tokens((), ()), str(error)
        self._digests = _digests(tokens)
        self.log.info("{path}: read again: {count} tokens", path=self._path, count=len(tokens.good))
        if complaint:
            self.log.error("{path}: {complaint}", path=self._path, complaint=complaint)


def _digests(tokens: Tokens) -> tuple[bytes, ...]:
    return tuple(sha256(token).digest() for token in tokens.good)
