"""
Tests for L{binaryserver.options}.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from binaryserver import assembly, listeners, tap
from binaryserver.errors import ConfigError
from binaryserver.options import SETTINGS, GatewayOptions, Setting

BY_NAME = {setting.name: setting for setting in SETTINGS}
NUMBERS = [setting for setting in SETTINGS if setting.kind in ("seconds", "rate", "count", "bytes")]


class OptionsCase(SynchronousTestCase):
    """
    Parses settings.
    """

    def write(self, text: str) -> str:
        """
        A settings file.
        """
        path = Path(self.mktemp())
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        return str(path)

    def parse(self, *arguments: str, environment: dict[str, str] | None = None) -> GatewayOptions:
        """
        What C{twistd} would be given.
        """
        options = GatewayOptions(environment or {})
        options.parseOptions(list(arguments))
        return options

    def refused(self, *arguments: str, environment: dict[str, str] | None = None) -> str:
        """
        The one line with which the process ends.
        """
        ended = self.assertRaises(SystemExit, self.parse, *arguments, environment=environment)
        text = str(ended.code)
        self.assertTrue(text.startswith("binaryserver: "), text)
        self.assertNotIn("\n", text)
        return text


class PrecedenceTests(OptionsCase):
    """
    Where a value comes from.
    """

    def test_defaults(self) -> None:
        """
        With nothing given every setting has its default.
        """
        options = self.parse()
        for setting in SETTINGS:
            if setting.name != "instance":
                self.assertEqual(options[setting.name], setting.default, setting.name)
        self.assertTrue(options["instance"])

    def test_documented(self) -> None:
        """
        The defaults that operators' scripts rely on.
        """
        options = self.parse()
        for name, default in {
            "md30": ["tcp:1883:interface=127.0.0.1"],
            "bus": "sqlite:var/bus.sqlite",
            "sessions": "sqlite:var/sessions.sqlite",
            "directory": "open:",
            "http": "tcp:8080:interface=127.0.0.1",
            "workers": 1,
            "flush-interval": 0.05,
            "batch-deadline": 60.0,
            "drain-timeout": 20.0,
            "drain-delay": 0.0,
            "max-packet": 262_144,
            "window": 256,
            "window-bytes": 1 << 20,
            "global-window": 256 << 20,
            "tls-handshake-timeout": 10.0,
            "connect-timeout": 10.0,
            "packet-timeout": 30.0,
            "output-timeout": 30.0,
            "start-timeout": 15.0,
        }.items():
            self.assertEqual(options[name], default, name)

    def test_order(self) -> None:
        """
        The command line wins over the environment, that over the file, that over the default, for each kind.
        """
        for name, values in {
            "bus": ("memory:a", "memory:b", "memory:c"),
            "workers": (2, 3, 4),
            "flush-interval": (0.5, 0.25, 0.125),
            "max-packet": (2048, 4096, 8192),
            "md30": (["tcp:1"], ["tcp:2"], ["tcp:3"]),
        }.items():
            setting, (line, variable, file) = BY_NAME[name], values
            one = file[0] if isinstance(file, list) else file
            path = self.write(f"{name} = {[one]!r}\n" if name == "md30" else f"{name} = {one!r}\n")
            texts = [str(value[0] if isinstance(value, list) else value) for value in (line, variable)]
            given = [setting.option, texts[0]]
            environment = {setting.variable: texts[1]}
            config = ["--config", path]
            self.assertEqual(self.parse(*config, *given, environment=environment)[name], line)
            self.assertEqual(self.parse(*config, environment=environment)[name], variable)
            self.assertEqual(self.parse(*config)[name], file)
            self.assertEqual(self.parse()[name], setting.default)

    def test_each(self) -> None:
        """
        They are looked for one by one: one from each place stands beside the others.
        """
        path = self.write('bus = "memory:"\nworkers = 3\nwindow = 7\n')
        options = self.parse("--workers=2", "--config", path, environment={"BINARYSERVER_WINDOW": "9"})
        self.assertEqual([options[name] for name in ("bus", "workers", "window")], ["memory:", 2, 9])
        self.assertEqual(options["max-packet"], BY_NAME["max-packet"].default)

    def test_configVariable(self) -> None:
        """
        The file can be named in the environment; the command line's wins.
        """
        first, second = self.write("window = 7\n"), self.write("window = 8\n")
        environment = {"BINARYSERVER_CONFIG": first}
        self.assertEqual(self.parse(environment=environment)["window"], 7)
        self.assertEqual(self.parse("--config", second, environment=environment)["window"], 8)

    def test_types(self) -> None:
        """
        A value has the type of its kind, wherever it came from.
        """
        kinds = {"text": str, "texts": list, "flag": bool, "seconds": float, "rate": float, "count": int, "bytes": int}
        values = [(setting, "yes" if setting.kind == "flag" else "70000") for setting in SETTINGS]
        environment = {setting.variable: value for setting, value in values}
        path = self.write(
            "".join(
                f"{setting.name} = {'[' * (setting.kind == 'texts')}"
                f"{value if setting in NUMBERS else repr(value)}{']' * (setting.kind == 'texts')}\n"
                for setting, value in values
            )
        )
        for options in (
            self.parse(
                *(setting.option if setting.kind == "flag" else f"{setting.option}=70000" for setting in SETTINGS)
            ),
            self.parse(environment=environment),
            self.parse("--config", path),
            self.parse(),
        ):
            for setting in SETTINGS:
                self.assertIs(type(options[setting.name]), kinds[setting.kind], setting.name)

    def test_repeatable(self) -> None:
        """
        C{--md30} adds up on the command line, stands between spaces in the environment and as a list in the file.
        """
        both = ["tcp:1883", "tcp:1884:interface=\\:\\:1"]
        self.assertEqual(self.parse("--md30", both[0], f"--md30={both[1]}")["md30"], both)
        self.assertEqual(self.parse(environment={"BINARYSERVER_MD30": "  ".join(both)})["md30"], both)
        self.assertEqual(self.parse("--config", self.write("md30 = ['{}', '{}']\n".format(*both)))["md30"], both)
        self.assertEqual(self.parse("--config", self.write("md30 = 'tcp:1 tcp:2'\n"))["md30"], ["tcp:1", "tcp:2"])

    def test_defaultsAreNotShared(self) -> None:
        """
        The default of a list is not what another one's command line appends to.
        """
        self.assertEqual(self.parse("--md30", "tcp:1")["md30"], ["tcp:1"])
        self.assertEqual(self.parse()["md30"], ["tcp:1883:interface=127.0.0.1"])


class RefusalTests(OptionsCase):
    """
    What cannot be used ends the process with one line that names the option.
    """

    def test_wrongKind(self) -> None:
        """
        A number that is none, or too small, is refused wherever it stands, with the place.
        """
        for setting in NUMBERS:
            below = "-1" if setting.least == 0 else str(setting.least / 2)
            for bad in ("", "x", "nan", "inf", "-inf", "1e999", "1e15", "0x10", below):
                for text, place in (
                    (self.refused(f"{setting.option}={bad}"), "command line"),
                    (self.refused(environment={setting.variable: bad}), setting.variable),
                ):
                    self.assertTrue(text.startswith(f"binaryserver: {setting.option}: {place}: "), text)

    def test_wholeNumbers(self) -> None:
        """
        What is counted is whole.
        """
        for setting in NUMBERS:
            if setting.kind not in ("seconds", "rate"):
                self.assertIn("is not a whole number", self.refused(f"{setting.option}=70000.5"))
                path = self.write(f"{setting.name} = 70000.5\n")
                self.assertIn(f"{setting.option}: {path}: ", self.refused("--config", path))

    def test_fileKinds(self) -> None:
        """
        TOML's own types are held to the kind too.
        """
        for name, value in (
            ("workers", "true"),
            ("workers", "[1]"),
            ("workers", "1979-05-27"),
            ("workers", "{}"),
            ("flush-interval", "false"),
            ("flush-interval", "nan"),
            ("bus", "3"),
            ("bus", "['memory:']"),
            ("bus", "''"),
            ("md30", "3"),
            ("md30", "[3]"),
            ("md30", "['']"),
            ("md30", "{a = 'tcp:1'}"),
        ):
            path = self.write(f"{name} = {value}\n")
            text = self.refused("--config", path)
            self.assertTrue(text.startswith(f"binaryserver: --{name}: {path}: "), text)

    def test_emptyText(self) -> None:
        """
        An empty text is no text.
        """
        for name in ("bus", "sessions", "directory", "http", "topic-prefix"):
            self.assertIn(f"--{name}: ", self.refused(f"--{name}="))
            self.assertIn(f"--{name}: ", self.refused(environment={BY_NAME[name].variable: ""}))

    def test_unknownKey(self) -> None:
        """
        A key of the file that is no setting is refused, also one that is a table of settings.
        """
        for text, key in (
            ("buss = 'memory:'\n", "buss"),
            ("[bus]\nspec = 'memory:'\n", "bus"),
            ("config = 'x'\n", "config"),
        ):
            path = self.write(text)
            shown = self.refused("--config", path)
            self.assertIn(path, shown)
            self.assertIn(key, shown)

    def test_badFile(self) -> None:
        """
        A file that is not there, or no TOML.
        """
        for path in ("no/such/file.toml", ".", self.write("= 3"), self.write("bus = '\udcff'")):
            text = self.refused("--config", path)
            self.assertTrue(text.startswith(f"binaryserver: --config: {path}: "), text)

    def test_unknownOption(self) -> None:
        """
        What the command line does not know ends it with one line, which names what is near.
        """
        for arguments, words in (
            (("--buss", "memory:"), "binaryserver: option --buss not recognized; --bus is"),
            (("--unheard-of",), "binaryserver: option --unheard-of not recognized"),
            (("--bus",), "binaryserver: option --bus requires argument"),
            (("stray",), "binaryserver: "),
        ):
            ended = self.assertRaises(SystemExit, self.parse, *arguments)
            self.assertTrue(str(ended.code).startswith(words), ended.code)
            self.assertNotIn("\n", str(ended.code))

    @given(
        st.sampled_from(SETTINGS), st.text(max_size=30) | st.integers() | st.floats() | st.lists(st.text(max_size=5))
    )
    def test_anything(self, setting: Setting, value: Any) -> None:
        """
        Whatever a value is, it is taken with its type and within its bounds or refused in its option's name.
        """
        try:
            parsed = setting.parse(value, "here")
        except ConfigError as error:
            self.assertEqual(error.option, setting.option)
        else:
            if setting in NUMBERS:
                self.assertTrue(setting.least <= parsed < 1e15)


class SchemaTests(OptionsCase):
    """
    The settings as a whole.
    """

    def test_help(self) -> None:
        """
        C{--help} tells every setting with its default.
        """
        text = " ".join(GatewayOptions({}).getUsage(width=100).split())
        for setting in SETTINGS:
            self.assertIn(setting.option + ("" if setting.kind == "flag" else "="), text)
        self.assertIn("--config=", text)
        self.assertIn("262144", text)

    def test_flag(self) -> None:
        """
        A flag stands alone on the command line, and says yes or no elsewhere.
        """
        name = "md21-require-tls"
        self.assertIs(self.parse()[name], False)
        self.assertIs(self.parse(f"--{name}")[name], True)
        for text, value in {"yes": True, "No": False, "1": True, "false": False}.items():
            self.assertIs(self.parse(environment={"BINARYSERVER_MD21_REQUIRE_TLS": text})[name], value)
        self.assertIs(self.parse("--config", self.write(f"{name} = true\n"))[name], True)
        self.assertIn("neither yes nor no", self.refused(environment={"BINARYSERVER_MD21_REQUIRE_TLS": "maybe"}))

    def test_names(self) -> None:
        """
        Names are of one form, each there once, and so are their variables.
        """
        names = [setting.name for setting in SETTINGS]
        self.assertEqual(len(set(names)), len(names))
        for setting in SETTINGS:
            self.assertTrue(re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", setting.name))
            self.assertEqual(setting.variable, "BINARYSERVER_" + setting.name.replace("-", "_").upper())

    def test_used(self) -> None:
        """
        No setting does nothing: each is read where the services are built.
        """
        source = "".join(Path(str(module.__file__)).read_text("utf-8") for module in (tap, assembly, listeners))
        made = re.findall(r'_make\(\w+, "([a-z-]+)"\)', source)
        read = re.findall(r'(?:settings|options)\["([a-z0-9-]+)"\]', source)
        self.assertEqual({setting.name for setting in SETTINGS} - {*made, *read}, set())
