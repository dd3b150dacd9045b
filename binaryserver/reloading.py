"""
SIGHUP: the configuration is read again, and of what changed that is taken which can be while the process runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from twisted.logger import Logger

from binaryserver.errors import ConfigError

LIVE: Final = frozenset(
    {
        "log-level",
        "window",
        "window-bytes",
        "max-packet",
        "connect-timeout",
        "packet-timeout",
        "control-rate",
        "max-links",
        "max-handshakes",
        "address-rate",
    }
)
"""The settings that can change. Times and the size of packets are those of links that are made from then on."""


def liveOf(settings: Mapping[str, Any]) -> dict[str, Any]:
    """
    Those of L{LIVE}.
    """
    return {name: settings[name] for name in sorted(LIVE)}


class Reloading:
    """
    Of one process.
    """

    log = Logger()

    def __init__(self, settings: Mapping[str, Any], again: Callable[[], Mapping[str, Any]]) -> None:
        """
        @param settings: as the process began
        @param again: gives them as they are configured now; raises L{ConfigError}
        """
        self._settings = dict(settings)
        self._again = again
        self._takers: list[Callable[[Mapping[str, Any]], None]] = []

    def onReload(self, taker: Callable[[Mapping[str, Any]], None]) -> None:
        """
        Have something called with every reload: with the L{LIVE} settings as they are now, to take them, and to look
        again at whatever else it reads from elsewhere. It may raise L{ConfigError}, before it has taken anything.
        """
        self._takers.append(taker)

    def reload(self) -> None:
        """
        Do it, and say in one line what became of it. A configuration that cannot be used changes nothing.
        """
        try:
            settings = self._again()
            live = liveOf(settings)
            for taker in self._takers:
                taker(live)
        except ConfigError as error:
            self.log.error("the configuration is left as it was: {error}", error=str(error))
            return
        changed = [name for name, value in settings.items() if value != self._settings[name]]
        taken = [f"{name} {_text(self._settings[name])} -> {_text(settings[name])}" for name in changed if name in LIVE]
        # Until it is restarted the process goes by what it began with, and says so each time. Their values may hold
        # passwords.
        left = [name for name in changed if name not in LIVE]
        self._settings |= live
        self.log.info(
            "the configuration was read again: changed: {changed}; changed, but needs a restart: {left}; certificates, "
            "tokens and the directory are looked at again",
            changed=", ".join(taken) or "nothing",
            left=", ".join(left) or "nothing",
        )


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
