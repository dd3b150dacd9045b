"""
When a message expires whose sender does not say.
"""

from __future__ import annotations

from collections.abc import Iterable

from binaryserver.directory.records import Account
from binaryserver.errors import ConfigError
from binaryserver.transcode.events import isName

_OPTION = "--channel-expiry"
_LONGEST = 366 * 86_400.0


class ChannelExpiry:
    """
    One default, and those of some channels; what an account says for its own goes before both.
    """

    def __init__(self, default: float, channels: Iterable[str]) -> None:
        """
        @param default: s
        @param channels: each C{CHANNEL=SECONDS}
        @raise ConfigError: one of them is not, or is too long
        """
        if default >= _LONGEST:
            raise ConfigError("--message-expiry", f"{default:g} is more than 366 days")
        self._default = int(default * 1000)
        self._channels: dict[str, int] = {}
        for text in channels:
            channel, _, seconds = text.rpartition("=")
            try:
                number = float(seconds)
            except ValueError:
                number = 0.0
            if not (isName(channel) and 0.001 <= number < _LONGEST):
                raise ConfigError(_OPTION, f"{text!r}: the form is CHANNEL=SECONDS, of at most 366 days")
            self._channels[channel] = int(number * 1000)

    def __call__(self, account: Account | None, channel: str) -> int:
        """
        The ms after which a message on a channel expires.

        @param account: whose box it is for; L{None}: that is not known
        """
        if account is not None:
            seconds = account.channelExpiry.get(channel, account.messageExpiry)
            if seconds:
                return int(seconds * 1000)
        return self._channels.get(channel, self._default)
