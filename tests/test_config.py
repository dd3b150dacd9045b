"""
Tests for L{binaryserver.config} and L{binaryserver.reloading}.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.config import readConfig
from binaryserver.errors import ConfigError
from binaryserver.options import SETTINGS, GatewayOptions
from binaryserver.reloading import LIVE, Reloading


class FileTests(SynchronousTestCase):
    """
    A file, and where in it things stand.
    """

    def write(self, text: str | bytes) -> str:
        """
        A file.
        """
        path = Path(self.mktemp())
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(path)

    def test_lines(self) -> None:
        """
        Each key has its line, however it is written.
        """
        path = self.write('# window = 1\n\nwindow = 2\n"bus" = "x"\n  workers=3\n[sessions]\nhttp = 1\nmd30.x = 1\n')
        file = readConfig(path)
        self.assertEqual(dict(file.lines), {"window": 3, "bus": 4, "workers": 5, "sessions": 6})
        self.assertEqual(file.where("window"), f"{path}: line 3")
        self.assertEqual(file.where("http"), path)

    def test_problems(self) -> None:
        """
        All keys that are none, with the nearest that is; all values that do not fit, with what was expected.
        """
        path = self.write("windoww = 1\nworkers = 0\nxyzzy = 2\nflush-interval = 'soon'\n[sessions]\nwindow = 5\n")
        file = readConfig(path)
        self.assertEqual(
            [problem.text(path) for problem in file.unknown(SETTINGS)],
            [f"{path}: line 1: windoww is no setting; window is", f"{path}: line 3: xyzzy is no setting"],
        )
        self.assertEqual(
            sorted(problem.text(path) for problem in file.unfit(SETTINGS)),
            [
                f"{path}: line 2: workers cannot be used: 0 is not a whole number of at least 1",
                f"{path}: line 4: flush-interval cannot be used: 'soon' is not a number of seconds of at least 0",
                f"{path}: line 5: sessions cannot be used: {{'window': 5}} is no text",
            ],
        )

    def test_unreadable(self) -> None:
        """
        What is no TOML is told with its line.
        """
        for text, words in (
            ("a = 1\nb = \n", ": line 2: Invalid value"),
            (b"a = 1\nb = '\xff'\n", ": line 2: it is not UTF-8"),
            ("a = 1\n[[", ": Invalid initial character for a key part (at end of document)"),
        ):
            path = self.write(text)
            error = self.assertRaises(ConfigError, readConfig, path)
            self.assertEqual(str(error), f"--config: {path}{words}")
        error = self.assertRaises(ConfigError, readConfig, "/nowhere")
        self.assertEqual(str(error), "--config: /nowhere: No such file or directory")


class ReloadingTests(SynchronousTestCase):
    """
    SIGHUP.
    """

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.path.write_text("window = 100\n")
        self.options = GatewayOptions({"BINARYSERVER_BATCH_DEADLINE": "7"})
        self.options.parseOptions(["--config", str(self.path), "--max-packet=4096"])
        self.reloading = Reloading(self.options, self.options.again)
        self.taken: list[dict[str, Any]] = []
        self.reloading.onReload(lambda live: self.taken.append(dict(live)))
        self.lines: list[str] = []

    def reload(self, text: str) -> str:
        """
        With this in the file.

        @return: what was logged, which is one line
        """
        events: list[Mapping[str, Any]] = []
        self.path.write_text(text)
        observer: Any = events.append
        globalLogPublisher.addObserver(observer)
        try:
            self.reloading.reload()
        finally:
            globalLogPublisher.removeObserver(observer)
        [event] = events
        return str(event["log_format"]).format(**event)

    def test_live(self) -> None:
        """
        What can change is handed on, and told; what cannot is named, without its value; all by the one precedence.
        """
        line = self.reload(
            'window = 50\nbus = "kafka://u:secret@h:1"\nmax-packet = 8192\nlog-level = ["warn", "a=debug"]'
        )
        self.assertIn("changed: log-level info -> warn a=debug, window 100 -> 50;", line)
        self.assertIn("changed, but needs a restart: bus;", line)
        self.assertNotIn("secret", line)
        [live] = self.taken
        self.assertEqual(set(live), LIVE)
        self.assertEqual((live["window"], live["max-packet"], live["log-level"]), (50, 4096, ["warn", "a=debug"]))

    def test_again(self) -> None:
        """
        What was taken is not told again, nor what was taken back; what needs a restart is.
        """
        self.reload('window = 50\nbus = "sqlite:x"')
        line = self.reload('window = 50\nbus = "sqlite:x"')
        self.assertIn("changed: nothing; changed, but needs a restart: bus;", line)
        line = self.reload("window = 100")
        self.assertIn("changed: window 50 -> 100; changed, but needs a restart: nothing;", line)

    def test_bad(self) -> None:
        """
        A configuration that cannot be used changes nothing.
        """
        for text, words in (
            ("windo = 50", "line 1: windo is no setting; window is"),
            ("window = 50\nworkers = 'x'", "--workers: "),
            ("window =", "Invalid value"),
        ):
            line = self.reload(text)
            self.assertTrue(line.startswith("the configuration is left as it was: "), line)
            self.assertIn(words, line)
        self.path.unlink()
        self.reloading.reload()
        self.assertEqual(self.taken, [])

    def test_refused(self) -> None:
        """
        Likewise if whoever is to take it cannot.
        """

        def refuse(live: Mapping[str, Any]) -> None:
            raise ConfigError("--log-level", "no")

        self.reloading = Reloading(self.options, self.options.again)
        self.reloading.onReload(refuse)
        self.reloading.onReload(lambda live: self.taken.append(dict(live)))
        self.assertIn("--log-level: no", self.reload("window = 50"))
        self.assertEqual(self.taken, [])

    def test_exist(self) -> None:
        """
        All that can change are settings.
        """
        self.assertLessEqual(LIVE, {setting.name for setting in SETTINGS})
