"""
Tests for L{binaryserver.secretvalues}, and for what becomes of secrets in the settings: they come by file or
environment, and neither errors nor logs repeat them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.errors import ConfigError
from binaryserver.options import GatewayOptions
from binaryserver.secretvalues import holdsSecret, readSecret, withoutSecrets
from binaryserver.shovel.options import ShovelOptions
from tests.gatewayprocess import ROOT

WITH_SECRET = (
    "redis://:geheim@h:1/0",
    "redis://user:geheim@h:1/0?prefix=x",
    "redis://user:ge%40heim@h",
    "redis://:ge/heim@h/0",
    "redis://u:geheim@x@h/0",
    "rqueues://:geheim@h/0",
    "https://user:geheim@directory.example/v1",
    "kafka://user:geheim@h:9092",
    "kafka://h:9092?sasl.username=u&sasl.password=geheim",
    "kafka://h:9092?sasl.password=ge&heim",
    "kafka://h:9092?SASL.PASSWORD=geheim&x=1",
    "kafka://h:9092?ssl.key.password=geheim",
    "kafka://h:9092?ssl.key.pem=geheim",
    "kafka://h:9092?sasl.oauthbearer.client.secret=geheim",
    "kafka://h:9092?sasl.oauthbearer.config=geheim",
    "kafka://h:9092?sasl.oauthbearer.assertion.private.key.passphrase=geheim",
)
WITHOUT_SECRET = (
    "sqlite:var/bus.sqlite",
    "sqlite:/a@b:c?x=password=1",
    "memory:",
    "open:",
    "redis://h:6379/0?prefix=x&timeout=1",
    "redis://user@h:6379/0?password-file=/run/secrets/redis",
    "rediss://h:6379/0?ca=/etc/a@b:c.pem",
    "https://directory.example:443/v1?token-file=/run/secrets/token",
    "kafka://one:9092,[::1]:9092?sasl.username=u&password-file=/run/secrets/kafka&compression.type=lz4",
    "kafka://h:9092?ssl.key.location=/etc/key.pem&ssl.ca.location=/etc/ca.pem",
    "tcp:8080:interface=127.0.0.1",
)


class HoldsSecretTests(SynchronousTestCase):
    """
    L{holdsSecret} and L{withoutSecrets}.
    """

    def test_with(self) -> None:
        """
        Each kind is seen, and is not shown; what else stands there is.
        """
        for spec in WITH_SECRET:
            self.assertTrue(holdsSecret(spec), spec)
            shown = withoutSecrets(spec)
            for part in ("geheim", "heim"):
                self.assertNotIn(part, shown)
            self.assertTrue(shown.startswith(spec.partition("://")[0]), shown)
            self.assertIn("***", shown)
        self.assertEqual(
            withoutSecrets("kafka://h:9092?a=1&sasl.password=x&b=2"), "kafka://h:9092?a=1&sasl.password=***&b=2"
        )

    def test_without(self) -> None:
        """
        What names files, addresses and names is none, and is shown as it is.
        """
        for spec in WITHOUT_SECRET:
            self.assertFalse(holdsSecret(spec), spec)
            self.assertEqual(withoutSecrets(spec), spec)

    @given(
        st.text(min_size=1, max_size=20), st.sampled_from(["redis://:{}@h/0", "kafka://h:1?x=1&sasl.password={}&y=2"])
    )
    def test_encoded(self, secret: str, form: str) -> None:
        """
        Any password, percent-encoded as it is to be, is seen, and replaced whole.
        """
        spec = form.format(quote(secret, safe=""))
        self.assertTrue(holdsSecret(spec))
        self.assertEqual(withoutSecrets(spec), form.format("***").replace("redis://:", "redis://"))


class ReadSecretTests(SynchronousTestCase):
    """
    L{readSecret}.
    """

    def write(self, content: bytes) -> str:
        """
        A file.
        """
        path = Path(self.mktemp())
        path.write_bytes(content)
        return str(path)

    def test_read(self) -> None:
        """
        One line, without the newline at its end, and with everything else.
        """
        for content, secret in ((b"geheim", "geheim"), (b" ge heim \r\n", " ge heim "), ("hé\n".encode(), "hé")):
            self.assertEqual(readSecret(self.write(content), "--bus", "password-file"), secret)

    def test_refused(self) -> None:
        """
        A file that cannot be read or holds no one line is told by its name, and not quoted.
        """
        for content, words in (
            (b"", "one line of at most 4096 bytes"),
            (b"\n", "one line"),
            (b"geheim\ngeheim\n", "one line"),
            (b"geheim" * 1000, "one line"),
            (b"geheim\xff", "is not UTF-8"),
        ):
            path = self.write(content)
            error = self.assertRaises(ConfigError, readSecret, path, "--bus", "password-file")
            self.assertTrue(str(error).startswith("--bus: password-file: "), error)
            self.assertIn(words, str(error))
            self.assertNotIn("geheim", str(error))
        error = self.assertRaises(ConfigError, readSecret, "/none/such", "--bus", "password-file")
        self.assertEqual(str(error), "--bus: password-file: cannot read /none/such: No such file or directory")


class SettingsTests(SynchronousTestCase):
    """
    Secrets in the settings of the programs.
    """

    def test_commandLine(self) -> None:
        """
        On the command line none is taken: the line that says so names what to use instead, and does not quote it.
        """
        for spec in WITH_SECRET:
            options = GatewayOptions({})
            ended = self.assertRaises(SystemExit, options.parseOptions, [f"--bus={spec}"])
            text = str(ended.code)
            self.assertTrue(text.startswith("binaryserver: --bus: everybody on this host can see a password"), text)
            self.assertIn("password-file=PATH), or put the value into BINARYSERVER_BUS or into the --config file", text)
            self.assertNotIn("geheim", text)
            self.assertNotIn("\n", text)
        shovel = ShovelOptions({})
        ended = self.assertRaises(SystemExit, shovel.parseOptions, ["--rqueue=rqueue://:geheim@h/0"])
        self.assertIn("BINARYSERVER_RQUEUE", str(ended.code))

    def test_elsewhere(self) -> None:
        """
        In the environment and in the file each is, and on the command line what holds none.
        """
        for spec in (*WITH_SECRET, *WITHOUT_SECRET):
            options = GatewayOptions({"BINARYSERVER_BUS": spec})
            options.parseOptions([])
            self.assertEqual(options["bus"], spec)
            path = Path(self.mktemp())
            path.write_text(f"bus = '{spec}'\n")
            options = GatewayOptions({})
            options.parseOptions(["--config", str(path)])
            self.assertEqual(options["bus"], spec)
        for spec in WITHOUT_SECRET:
            options = GatewayOptions({})
            options.parseOptions(["--bus", spec])
            self.assertEqual(options["bus"], spec)

    def test_wrongKind(self) -> None:
        """
        A value of the wrong kind is not quoted if there is a secret in it.
        """
        path = Path(self.mktemp())
        path.write_text('sessions = ["redis://:geheim@h/0"]\n')
        ended = self.assertRaises(SystemExit, GatewayOptions({}).parseOptions, ["--config", str(path)])
        self.assertIn("is no text", str(ended.code))
        self.assertNotIn("geheim", str(ended.code))


class ProgramTests(SynchronousTestCase):
    """
    The program with a password that is of no use.
    """

    def test_unreachable(self) -> None:
        """
        What cannot be reached, or understood, ends the start with its option's name; the password is nowhere in what
        was said.
        """
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        for option, value in (
            ("sessions", "redis://user:geheim@127.0.0.1:1/0"),
            ("sessions", "redis://:ge/heim@127.0.0.1:1/0"),
            ("sessions", "redis://user:12?ge=heim@127.0.0.1/0"),
            ("cloudconnect", "rqueue://:geheim@127.0.0.1:1/0"),
            ("bus", "kafka://127.0.0.1:1?security.protocol=sasl_plaintext&sasl.mechanism=PLAIN&sasl.username=u"
             "&sasl.password=geheim"),
            ("bus", "kafka://user:geheim@127.0.0.1:1"),
        ):  # fmt: skip
            command = [
                sys.executable,
                "-c",
                "import sys; sys.path.insert(0, sys.argv.pop(1)); from twisted.scripts.twistd import run; run()",
                str(ROOT),
                "-n",
                f"--pidfile={folder}/pid",
                "binaryserver",
                *("--md30=off", "--md21=off", "--http=off", "--start-timeout=1"),
                *(() if option == "bus" else ("--bus=memory:",)),
                *(() if option == "sessions" else ("--sessions=memory:",)),
            ]
            environment = {**os.environ, f"BINARYSERVER_{option.upper()}": value}
            done = subprocess.run(command, capture_output=True, timeout=60, cwd=folder, env=environment)
            said = (done.stdout + done.stderr).decode()
            self.assertEqual(done.returncode, 1, said)
            self.assertIn(f"binaryserver: --{option}: ", said)
            for part in ("geheim", "heim"):
                self.assertNotIn(part, said)
