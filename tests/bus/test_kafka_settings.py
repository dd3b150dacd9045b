"""
Tests for L{binaryserver.bus.kafka_settings}: passwords.
"""

from __future__ import annotations

from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.bus.kafka_settings import KafkaSettings
from binaryserver.errors import ConfigError
from binaryserver.plugins import BackEndContext


class PasswordTests(SynchronousTestCase):
    """
    The password of SASL.
    """

    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute()
        self.path.write_text("ge&heim\n")

    def settings(self, spec: str) -> KafkaSettings:
        """
        What a value says.
        """
        return KafkaSettings(spec, BackEndContext(Clock(), "--bus"))

    def test_file(self) -> None:
        """
        It is what the file holds, for whatever connects; the value as it is shown names the file.
        """
        spec = f"kafka://h:9092?sasl.username=u&password-file={self.path}"
        settings = self.settings(spec)
        made = settings.producer(0.05)
        self.assertEqual((made["sasl.username"], made["sasl.password"]), ("u", "ge&heim"))
        self.assertNotIn("password-file", made)
        self.assertEqual(settings.shown, spec)

    def test_value(self) -> None:
        """
        In the value itself it is not shown.
        """
        settings = self.settings("kafka://h:9092?sasl.password=ge%26heim&x=1")
        self.assertEqual(settings.producer(0.05)["sasl.password"], "ge&heim")
        self.assertEqual(settings.shown, "kafka://h:9092?sasl.password=***&x=1")

    def test_refused(self) -> None:
        """
        Two of them, a file that is not there, and values that cannot be understood; none quotes a password.
        """
        for spec, words in (
            (f"kafka://h:9092?sasl.password=geheim&password-file={self.path}", "do not go together"),
            ("kafka://h:9092?password-file=/none/such", "password-file: cannot read /none/such"),
            ("kafka://u:geheim@h:9092", "the servers are not HOST:PORT"),
            ("kafka://h:9092?sasl.password=ge&geheim", "is not option=value"),
            ("kafka://h:9092?sasl.password=geheim&acks=1", "acks cannot be set"),
        ):
            error = self.assertRaises(ConfigError, self.settings, spec)
            self.assertTrue(str(error).startswith("--bus: "), error)
            self.assertIn(words, str(error))
            self.assertNotIn("geheim", str(error))
