"""
The settings of C{twistd binaryserver-shovel}; found as those of C{twistd binaryserver}.
"""

from __future__ import annotations

from typing import ClassVar, Final

from binaryserver.errors import ConfigError
from binaryserver.options import OFF, Setting, SettingsOptions

SETTINGS: Final = (
    Setting(
        "rqueue",
        "text",
        "",
        "Where events come from: rqueue://HOST:PORT/DB[?password-file=PATH] (rqueues:// with TLS).",
    ),
    Setting(
        "bus",
        "text",
        "sqlite:var/bus.sqlite",
        "Where events go: sqlite:PATH, kafka://HOST:PORT, pykafka://..., memory:",
    ),
    Setting("topic-prefix", "text", "binaryserver.", "What the names of the bus's topics begin with."),
    Setting("http", "text", OFF, "Serve health and counts on this endpoint."),
    Setting("instance", "text", "", "This Shovel's id."),
    Setting("batch", "count", 500, "Events that are taken from a list at once.", 1),
    Setting("poll-interval", "seconds", 0.1, "Between two looks at a list that was empty, s.", 0.001),
    Setting("lease", "seconds", 10.0, "After which a Shovel that was not heard of is dead, s.", 1),
    Setting("flush-interval", "seconds", 0.005, "The longest that data waits in the producer's buffer, s."),
    Setting("batch-deadline", "seconds", 60.0, "The longest that a pykafka: batch may wait for its report, s.", 0.1),
    Setting("drain-timeout", "seconds", 20.0, "The longest that a stop takes, s."),
    Setting("start-timeout", "seconds", 15.0, "After which a check at start gives up, s.", 0.1),
)
"""
Every setting there is.
"""

_SHOWN = {"rqueue": "none: it must be given", "instance": "the host's name"}


class ShovelOptions(SettingsOptions):
    """
    Those of C{twistd binaryserver-shovel}.
    """

    program = "binaryserver-shovel"
    settings = SETTINGS
    longdesc = (
        "Copies CloudConnect's queue (RQueue) to CloudNext's bus: MessagePack to protobuf, at least once, in order. "
        "Every option can also stand in the environment (--poll-interval as BINARYSERVER_POLL_INTERVAL) and in the "
        "--config file (poll-interval = 0.1)."
    )

    optParameters: ClassVar = [
        *([one.name, None, None, f"{one.help} [default: {_SHOWN.get(one.name, one.default)}]"] for one in SETTINGS),
        ["config", None, None, "Read settings from this TOML file."],
    ]

    def resolve(self) -> None:
        """
        See L{SettingsOptions.resolve}.
        """
        SettingsOptions.resolve(self)
        if not self.opts["rqueue"]:
            raise ConfigError("--rqueue", "it must be given: rqueue://HOST:PORT/DB")
