"""
The value of the option that names CloudConnect's queue, and the names of its lists.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from binaryserver.errors import ConfigError
from binaryserver.session.redissettings import OPTIONS, RedisSettings, isPasswordTorn, parseSpec
from binaryserver.transcode.cloudconnect_layout import Kind

FORM = "rqueue://[[USER]:PASSWORD@]HOST:PORT/DB[?option=value[&option=value...]]"

DEFAULT_PREFIX = "rqueue:"
DEFAULT_MAX_LENGTH = 1_000_000

_SCHEMES = {"rqueue": "redis", "rqueues": "rediss"}
_OWN = ("copy", "max-length")


@dataclass(frozen=True, slots=True)
class RQueueSettings:
    """
    What the option's value says.

    @ivar redis: where it is; its C{prefix} is what the names of the lists begin with
    @ivar maxLength: the most events that one list may hold
    @ivar copy: what the names of a second set of lists begin with, for a second reader; empty: there is none
    """

    redis: RedisSettings
    maxLength: int
    copy: str = ""

    def listOf(self, kind: Kind) -> str:
        """
        The key of the list that events of a kind are in.
        """
        return f"{self.redis.prefix}{kind.value}s"

    def copyOf(self, kind: Kind) -> str:
        """
        The key of the second list that they are in; empty: there is none.
        """
        return f"{self.copy}{kind.value}s" if self.copy else ""


def parseRQueue(spec: str, option: str) -> RQueueSettings:
    """
    Understand C{rqueue://[[USER]:PASSWORD@]HOST[:PORT][/DB][?name=value[&name=value...]]}, C{rqueues} for TLS.

    C{max-length} is the most events that one list may hold (1,000,000 if not given), C{prefix} what the names of the
    lists begin with (C{rqueue:} if not given), C{copy} what those of a second set of lists, with the same events, begin
    with; the others are those of L{parseSpec<binaryserver.session.redissettings.parseSpec>}.

    @param option: the option's name, for errors, which never quote the password
    @raise ConfigError: it cannot be understood, or a file of it cannot be read
    """
    try:
        parts = urlsplit(spec)
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise ConfigError(option, f"the form is {FORM}") from None
    if parts.scheme not in _SCHEMES or isPasswordTorn(parts):
        raise ConfigError(option, f"the form is {FORM}")
    known = (*OPTIONS, *_OWN)
    for name, _ in pairs:
        if name not in known:
            raise ConfigError(option, f"rqueue: has no option {name!r}; known: {', '.join(sorted(known))}")
    own = dict(pair for pair in pairs if pair[0] in _OWN)
    rest = [pair for pair in pairs if pair[0] not in _OWN]
    if len(own) + len(rest) < len(pairs):
        raise ConfigError(option, "an option is given twice")
    plain = urlunsplit((_SCHEMES[parts.scheme], parts.netloc, parts.path, urlencode(rest), parts.fragment))
    try:
        redis = parseSpec(plain, option)
    except ConfigError as error:
        text = str(error).removeprefix(f"{option}: ")
        raise ConfigError(option, text.replace("redis://", "rqueue://").replace("rediss://", "rqueues://")) from error
    if not any(name == "prefix" for name, _ in pairs):
        redis = replace(redis, prefix=DEFAULT_PREFIX)
    copy = own.get("copy")
    if copy is not None and copy in ("", redis.prefix):
        raise ConfigError(option, f"copy is {copy!r}; it must be a prefix other than that of the lists themselves")
    length = _length(own["max-length"], option) if "max-length" in own else DEFAULT_MAX_LENGTH
    return RQueueSettings(redis, length, copy or "")


def _length(text: str, option: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 40):
        raise ConfigError(option, f"max-length is {text!r}; it must be a whole number above 0")
    return int(text)
