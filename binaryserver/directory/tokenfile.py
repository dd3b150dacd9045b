"""
The token by which a directory service knows the gateway.
"""

from __future__ import annotations

import re
from typing import Any

from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from binaryserver.errors import ConfigError

_READ_INTERVAL = 1.0
_MAX_TOKEN = 8192

# token68 of RFC 9110, section 11.2: what a bearer token may be made of.
_TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")


class TokenFile:
    """
    A bearer token in a file, which is read again when a token is wanted, at most once a second.
    """

    log = Logger()

    def __init__(self, reactor: Any, path: str, option: str) -> None:
        """
        @param path: empty: there is no token
        @param option: the option's name, for errors
        """
        self._reactor = reactor
        self._path = path
        self._option = option
        self._token = b""
        self._complaint = ""
        self._readAt = float("-inf")

    async def start(self) -> None:
        """
        Read it for the first time.

        @raise ConfigError: the file cannot be read, or there is no token in it
        """
        if self._path:
            token, complaint = await self._read()
            if complaint:
                raise ConfigError(self._option, complaint)
            self._token = token

    async def current(self) -> bytes:
        """
        The token; empty: there is none. When the file has none any more, the last one that it had.
        """
        if self._path and self._reactor.seconds() - self._readAt >= _READ_INTERVAL:
            token, complaint = await self._read()
            if complaint and complaint != self._complaint:
                self.log.error("{complaint}; the token of before counts on", complaint=complaint)
            self._complaint = complaint
            if not complaint:
                self._token = token
        return self._token

    async def _read(self) -> tuple[bytes, str]:
        self._readAt = self._reactor.seconds()
        found: tuple[bytes, str] = await deferToThreadPool(
            self._reactor, self._reactor.getThreadPool(), _read, self._path
        )
        return found


def _read(path: str) -> tuple[bytes, str]:
    """
    The token in a file, or what is wrong.
    """
    try:
        with open(path, "rb") as file:
            token = file.read(_MAX_TOKEN + 1).strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its name cannot be that of a file"
        return b"", f"token-file: cannot read {path!r}: {reason}"
    if not token:
        return b"", f"token-file: {path} is empty"
    if len(token) > _MAX_TOKEN or _TOKEN.fullmatch(token) is None:
        return b"", f"token-file: {path} does not hold one bearer token, in letters, digits and - . _ ~ + /"
    return token, ""
