"""
What it means that Redis refused something, or that a connection to it ended.
"""

from __future__ import annotations

import re

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.error import ConnectionAborted, ConnectionClosed, ConnectionDone
from twisted.python.failure import Failure

from binaryserver.errors import ConfigError, StoreError, StoreUnavailable
from binaryserver.session.redisreplies import ErrorReply
from binaryserver.session.redissettings import RedisSettings

TRANSIENT = frozenset(
    ("LOADING", "MASTERDOWN", "BUSY", "READONLY", "MISCONF", "OOM", "TRYAGAIN", "CLUSTERDOWN", "NOREPLICAS")
)
"""Codes of what is refused for now."""

_IN_SCRIPTS = re.compile(r"\b(?:READONLY|OOM|MISCONF|NOREPLICAS)\b")
_DENIED = frozenset(("NOAUTH", "WRONGPASS", "NOPERM"))

_HOPELESS = (SSL.Error, VerificationError, StoreError)
"""How a connection ends that will not end otherwise the next time."""


class Silence(Exception):
    """
    There was no answer to the greeting in time.
    """


def codesOf(error: ErrorReply) -> set[str]:
    """
    Why something was refused. Of what a script did, older versions tell the code in the middle.
    """
    return {error.code, *_IN_SCRIPTS.findall(str(error))}


def describeEnd(failure: Failure, settings: RedisSettings) -> str:
    """
    Why a connection ended, in one line.
    """
    error = failure.value
    if isinstance(error, VerificationError):
        return f"its certificate is not for {settings.host}"
    if isinstance(error, SSL.Error):
        texts = [each[-1] for each in error.args[0]] if error.args and isinstance(error.args[0], list) else []
        if "certificate verify failed" in texts:
            return "its certificate is not to be trusted: no authority that is known here has signed it, or it expired"
        return f"TLS failed: {', '.join(texts) or 'it closed the connection'}"
    if isinstance(error, ConnectionAborted):
        return "it was dropped"
    if isinstance(error, ConnectionClosed):
        return "it closed the connection"
    return str(error)


def unusable(
    error: Exception, ended: Failure | None, settings: RedisSettings, option: str
) -> ConfigError | StoreUnavailable:
    """
    What a greeting that failed means.

    @param error: what it failed with
    @param ended: why the connection ended, if it did
    """
    where = settings.where
    if isinstance(error, ErrorReply) and codesOf(error).isdisjoint(TRANSIENT):
        return ConfigError(option, f"{where}: {_refusal(error, settings)}")
    reason = (str(error) or type(error).__name__) if ended is None else describeEnd(ended, settings)
    if ended is not None and ended.check(*_HOPELESS) and not ended.check(SSL.SysCallError):
        return ConfigError(option, f"{where}: {reason}")
    if settings.tls is None and ended is not None and ended.check(ConnectionDone):
        reason += "; does it speak TLS (rediss://)?"
    elif settings.tls is not None and isinstance(error, Silence):
        reason += "; does it speak TLS?"
    return StoreUnavailable(f"{option}: {where}: {reason}")


def _refusal(error: ErrorReply, settings: RedisSettings) -> str:
    """
    Why it cannot be used.
    """
    if error.code == "NOAUTH":
        return "it wants a password: redis://HOST:PORT/DB?password-file=PATH"
    if error.code in _DENIED:
        return f"it does not let us in: {error}"
    if "DB index" in str(error):
        return f"it has no database {settings.db}"
    return f"it refuses: {error}"
