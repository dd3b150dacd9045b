"""
The settings of C{twistd binaryserver}: one schema for the command line, the environment and the file.

A setting is looked for on the command line, then in the environment (C{BINARYSERVER_...}), then in the C{--config}
file, and has a default last.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, ClassVar, Final

from twisted.python.usage import Options, UsageError

from binaryserver.config import ConfigFile, readConfig
from binaryserver.errors import ConfigError
from binaryserver.secretvalues import holdsSecret

OFF = "off"
"""What a listener's option is set to so that it does not listen."""

_ENVIRONMENT = "BINARYSERVER_"

_FLAGS: Final = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


@dataclass(frozen=True, slots=True)
class Setting:
    """
    @ivar name: as on the command line, without the dashes
    @ivar kind: C{"text"}, C{"texts"} (repeatable), C{"flag"}, C{"seconds"}, C{"rate"}, C{"count"}, C{"bytes"}
    @ivar default: of the kind's type: str, list of str, bool, float, float, int, int
    @ivar least: the smallest number
    """

    name: str
    kind: str
    default: Any
    help: str
    least: float = 0

    @property
    def option(self) -> str:
        """
        With its dashes.
        """
        return f"--{self.name}"

    @property
    def variable(self) -> str:
        """
        Its name in the environment.
        """
        return _ENVIRONMENT + self.name.upper().replace("-", "_")

    def parse(self, value: Any, where: str) -> Any:
        """
        Check a value and give it its type.

        @param value: a str, or what TOML gave
        @param where: where it stood, for the message
        @raise ConfigError: it is not of the kind
        """
        if self.kind == "texts":
            values = value.split() if isinstance(value, str) else value
            if not isinstance(values, list) or not all(isinstance(one, str) and one for one in values):
                raise ConfigError(self.option, f"{where}: {_quoted(value)} is no list of texts")
            return values
        if self.kind == "text":
            if not isinstance(value, str) or not value:
                raise ConfigError(self.option, f"{where}: {_quoted(value)} is no text")
            return value
        if self.kind == "flag":
            flag = value if isinstance(value, bool) else _FLAGS.get(str(value).lower())
            if flag is None:
                raise ConfigError(self.option, f"{where}: {value!r} is neither yes nor no")
            return flag
        wanted = {"seconds": "a number of seconds", "rate": "a number"}.get(self.kind, "a whole number")
        isWhole = self.kind not in ("seconds", "rate")
        try:
            if isinstance(value, bool):
                raise ValueError
            number = int(value) if isWhole else float(value)
            if isWhole and number != float(value):
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            number = float("nan")
        if not self.least <= number < 1e15:
            raise ConfigError(self.option, f"{where}: {value!r} is not {wanted} of at least {self.least:g}")
        return number


SETTINGS: Final = (
    Setting(
        "md30",
        "texts",
        ["tcp:1883:interface=127.0.0.1"],
        "Listen for MD30 boxes.",
    ),
    Setting(
        "md21",
        "texts",
        ["tcp:2100:interface=127.0.0.1"],
        "Listen for MD21 boxes.",
    ),
    Setting("listen", "texts", [], "Listen for boxes of a plugin's protocol: PROTOCOL=ENDPOINT; repeatable."),
    Setting("md21-cert", "text", "", "The certificate, and its chain, for MD21 boxes that ask for TLS; a PEM file."),
    Setting("md21-key", "text", "", "Its private key; a PEM file."),
    Setting("md21-clientca", "text", "", "Who signs the certificates of MD21 boxes that ask for TLS; a PEM file."),
    Setting("md21-crl", "text", "", "A revocation list of each of those; a PEM file."),
    Setting("md21-require-tls", "flag", False, "Refuse MD21 boxes without TLS."),
    Setting(
        "md21-udp",
        "text",
        OFF,
        "Let MD21 boxes send datagrams here: PORT[:interface=ADDR]; worker n has PORT + n. 'off': do not.",
    ),
    Setting(
        "md21-udp-advertise",
        "text",
        "",
        "Where MD21 boxes are told to send datagrams, if not where the gateway sees itself: HOST[:PORT]; worker n's is "
        "PORT + n.",
    ),
    Setting(
        "bus",
        "text",
        "sqlite:var/bus.sqlite",
        "Where events go: sqlite:PATH, kafka://HOST:PORT, pykafka://..., memory:",
    ),
    Setting(
        "cloudconnect",
        "text",
        OFF,
        "The second cloud, beside --bus: rqueue://HOST:PORT/DB (rqueues:// with TLS).",
    ),
    Setting(
        "sessions",
        "text",
        "sqlite:var/sessions.sqlite",
        "Where boxes' sessions and mailboxes are kept: sqlite:PATH, redis://HOST:PORT/DB (rediss:// with TLS), memory:",
    ),
    Setting(
        "directory",
        "text",
        "open:",
        "Who may come in: file:PATH, https://HOST/BASE; open: any box, any password, loopback listeners only.",
    ),
    Setting("directory-fresh", "seconds", 300.0, "How long what the directory said is used without asking again, s."),
    Setting("directory-stale", "seconds", 3600.0, "How much longer while the directory does not answer, s."),
    Setting("directory-absent", "seconds", 10.0, "How long it is remembered that there is no such account or box, s."),
    Setting("directory-size", "count", 100_000, "Accounts, and likewise boxes, that are remembered.", 1),
    Setting(
        "directory-recheck",
        "seconds",
        3600.0,
        "How often boxes that are connected are looked up again though no change was told, s.",
        1,
    ),
    Setting(
        "pseudonym-key-file",
        "text",
        "",
        "The key of pseudonyms, for accounts whose assets have some downstream: 32 random bytes, or 64 hex digits.",
    ),
    Setting(
        "session-retention",
        "seconds",
        7_776_000.0,
        "What is kept of a box that was not seen for so long is removed, s; 0: it is kept for ever.",
    ),
    Setting("secret-threads", "count", 2, "Threads that check the secrets of boxes.", 1),
    Setting("secret-queue", "count", 1000, "Secrets that may wait for them; beyond, boxes are to try again later.", 1),
    Setting(
        "control-rate",
        "rate",
        20.0,
        "PINGREQ, SUBSCRIBE, UNSUBSCRIBE and MD21 pings of one link a second, in the long run; 0: any number.",
    ),
    Setting(
        "http", "text", "tcp:8080:interface=127.0.0.1", "Serve health and the API on this endpoint; 'off': do not."
    ),
    Setting(
        "http-token-file",
        "text",
        "",
        "Bearer tokens, one a line: all of the HTTP side but health is for who has one, or a certificate by clientca=.",
    ),
    Setting(
        "http-behind-tls", "flag", False, "A proxy before the HTTP side has TLS: let tokens come by plain TCP from it."
    ),
    Setting("log-format", "text", "text", "Lines of the log: text, or json."),
    Setting("log-level", "texts", ["info"], "What is logged: LEVEL, or NAMESPACE=LEVEL; repeatable."),
    Setting(
        "influx",
        "text",
        OFF,
        "Push metrics to InfluxDB too: http://HOST:PORT/DB or udp://HOST:PORT; 'off': do not.",
    ),
    Setting("influx-interval", "seconds", 10.0, "How often, s.", 1),
    Setting("topic-prefix", "text", "binaryserver.", "What the names of the bus's topics begin with."),
    Setting("workers", "count", 1, "Instances on this host that share the ports.", 1),
    Setting("instance", "text", "", "This instance's id; workers get -0, -1, ... appended."),
    Setting("flush-interval", "seconds", 0.05, "The longest that data waits in the producer's buffer, s."),
    Setting(
        "batch-deadline",
        "seconds",
        60.0,
        "The longest that a batch may wait for the bus before its link is dropped, s.",
        0.1,
    ),
    Setting("lease", "seconds", 10.0, "After which an instance that the session store has not heard of is dead, s.", 1),
    Setting(
        "reconnect-grace",
        "seconds",
        10.0,
        "A box back within it is told as a reconnect; a dead instance's boxes have it to come back, s.",
    ),
    Setting("drain-timeout", "seconds", 20.0, "The longest that a stop takes, s; --drain-delay comes before it."),
    Setting(
        "drain-delay",
        "seconds",
        0.0,
        "At a stop: how long /readyz says so before anything stops, for balancers to see it, s.",
    ),
    Setting("start-timeout", "seconds", 15.0, "After which a check at start gives up, s.", 0.1),
    Setting("tls-handshake-timeout", "seconds", 10.0, "For a TLS handshake and what precedes it, s.", 0.1),
    Setting("max-links", "count", 50_000, "Connections of boxes to one process; 0: any number."),
    Setting("max-handshakes", "count", 1000, "Of those, in a TLS handshake or what precedes it; 0: any number."),
    Setting("address-rate", "rate", 200.0, "New connections of one address a second, twice as many at once; 0: any."),
    Setting("connect-timeout", "seconds", 10.0, "For a whole CONNECT, s.", 0.1),
    Setting("packet-timeout", "seconds", 30.0, "For the rest of a packet once it has begun, s.", 0.1),
    Setting("output-timeout", "seconds", 30.0, "How long a peer may leave unread what it is sent, s.", 0.1),
    Setting("max-packet", "bytes", 262_144, "The largest packet, bytes.", 1024),
    Setting("window", "count", 256, "PUBLISHes of one link that may wait for the bus before it is paused.", 1),
    Setting(
        "window-bytes", "bytes", 1_048_576, "Bytes of one link that may wait for the bus before it is paused.", 1024
    ),
    Setting("global-window", "bytes", 268_435_456, "Bytes of all links that may wait for the bus.", 65536),
    Setting("downlink-window", "count", 16, "Messages that a link was sent and has not acked.", 1),
    Setting("md21-window", "count", 1024, "Tracks of one MD21 box by which its resends are known.", 1),
    Setting(
        "md21-activity-timeout",
        "seconds",
        300.0,
        "Without a PDU of an MD21 box that does not say how often it pings, s; after half of it the box is pinged.",
        1,
    ),
    Setting("md21-ack-timeout", "seconds", 60.0, "For an MD21 box to ack a message or the base values, s.", 1),
    Setting("mailbox-messages", "count", 1000, "Messages that wait for one box.", 1),
    Setting("mailbox-bytes", "bytes", 1_048_576, "Bytes of the payloads of messages that wait for one box.", 1024),
    Setting("max-message", "bytes", 65_536, "The largest payload of a message for a box, bytes.", 1),
    Setting("message-expiry", "seconds", 604_800.0, "When a message expires whose sender does not say, s.", 0.001),
    Setting("channel-expiry", "texts", [], "The same for one channel: CHANNEL=SECONDS; repeatable."),
    Setting("partial-packets", "bytes", 4_194_304, "Bytes of packets not yet whole, of all links.", 65536),
)
"""
Every setting there is.
"""


def _quoted(value: object) -> str:
    return "what stands there" if holdsSecret(str(value)) else repr(value)


def _shown(setting: Setting) -> str:
    default = setting.default
    if isinstance(default, list):
        return " ".join(default)
    if isinstance(default, float):
        return f"{default:.12g}"
    return str(default) or ("the host's name" if setting.name == "instance" else "none")


class SettingsOptions(Options):
    """
    Holds every setting by its name, checked and typed, once parsed. Subclassed by the programs.

    @cvar program: its name
    @cvar settings: all that it has
    """

    program: ClassVar[str]
    settings: ClassVar[tuple[Setting, ...]]
    synopsis = "[options]"

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        """
        @param environment: where variables are looked for; the process's own by default
        """
        self._environment = os.environ if environment is None else environment
        Options.__init__(self)

    def _append(self, name: str, value: str) -> None:
        self.opts[name] = [*(self.opts.get(name) or ()), value]

    def parseOptions(self, options: Any = None) -> None:
        """
        See L{Options.parseOptions}.

        Ends the process with one line if one of them is none, where twistd would print all that there are.
        """
        try:
            Options.parseOptions(self, options)
        except UsageError as error:
            named = str(error).partition("option ")[2].split(" ")[0]
            near = get_close_matches(named, [one.option for one in self.settings], 1)
            sys.exit(f"{self.program}: {error}{f'; {near[0]} is' if near else ''}")

    def postOptions(self) -> None:
        """
        Give every setting its value.

        Ends the process with one line that names the option if one cannot be used.
        """
        try:
            self.resolve()
        except ConfigError as error:
            sys.exit(f"{self.program}: {error}")

    def resolve(self) -> None:
        """
        Give every setting its value.

        @raise ConfigError: one cannot be used
        """
        self._given = {setting.name: self.opts.get(setting.name) for setting in self.settings}
        self.opts.update(self.again())

    def again(self) -> dict[str, Any]:
        """
        What L{resolve} would give now: the file may have changed.

        @raise ConfigError: one cannot be used
        """
        found: dict[str, Any] = {}
        path = self.opts.get("config") or self._environment.get(_ENVIRONMENT + "CONFIG")
        file = self._read(path) if path else ConfigFile("", {}, {})
        for setting in self.settings:
            given = self._given[setting.name]
            if given is not None:
                self._checkNoSecret(setting, given)
                found[setting.name] = setting.parse(given, "command line")
            elif setting.variable in self._environment:
                found[setting.name] = setting.parse(self._environment[setting.variable], setting.variable)
            elif setting.name in file.values:
                found[setting.name] = setting.parse(file.values[setting.name], file.where(setting.name))
            else:
                found[setting.name] = setting.default
        found["instance"] = found["instance"] or os.uname().nodename
        return found

    def _checkNoSecret(self, setting: Setting, given: Any) -> None:
        if any(holdsSecret(one) for one in (given if isinstance(given, list) else [given]) if isinstance(one, str)):
            seen = "everybody on this host can see a password on the command line"
            if setting.name == "directory":
                # It takes none from elsewhere either.
                raise ConfigError(setting.option, f"{seen}: let the value name a file with a token (token-file=PATH)")
            raise ConfigError(
                setting.option,
                f"{seen}: let the value name a file with it (password-file=PATH), or put the value into "
                f"{setting.variable} or into the --config file",
            )

    def _read(self, path: str) -> ConfigFile:
        file = readConfig(path)
        for problem in file.unknown(self.settings):
            raise ConfigError("--config", problem.text(path))
        return file


class GatewayOptions(SettingsOptions):
    """
    Those of C{twistd binaryserver}.
    """

    program = "binaryserver"
    settings = SETTINGS
    longdesc = (
        "The gateway between vehicles and the cloud. Every option can also stand in the environment "
        "(--flush-interval as BINARYSERVER_FLUSH_INTERVAL) and in the --config file (flush-interval = 0.05)."
    )

    optParameters: ClassVar = [
        *(
            [one.name, None, None, f"{one.help} [default: {_shown(one)}]"]
            for one in SETTINGS
            if one.kind not in ("texts", "flag")
        ),
        ["config", None, None, "Read settings from this TOML file."],
    ]

    def opt_md30(self, endpoint: str) -> None:
        """
        Listen for MD30 boxes here; repeatable; off: do not. [default: tcp:1883:interface=127.0.0.1]
        """
        self._append("md30", endpoint)

    def opt_md21(self, endpoint: str) -> None:
        """
        Listen for MD21 boxes here; repeatable; off: do not. [default: tcp:2100:interface=127.0.0.1]
        """
        self._append("md21", endpoint)

    def opt_listen(self, listener: str) -> None:
        """
        Listen for boxes of a plugin's protocol: PROTOCOL=ENDPOINT; repeatable.
        """
        self._append("listen", listener)

    def opt_log_level(self, level: str) -> None:
        """
        What is logged: debug, info, warn, error, critical; or NAMESPACE=LEVEL; repeatable. [default: info]
        """
        self._append("log-level", level)

    def opt_md21_require_tls(self) -> None:
        """
        Refuse MD21 boxes without TLS.
        """
        self.opts["md21-require-tls"] = True

    def opt_http_behind_tls(self) -> None:
        """
        A proxy before the HTTP side has TLS: let tokens come by plain TCP from it.
        """
        self.opts["http-behind-tls"] = True

    def opt_channel_expiry(self, expiry: str) -> None:
        """
        When a message expires whose sender does not say, for one channel: CHANNEL=SECONDS; repeatable.
        """
        self._append("channel-expiry", expiry)
