"""
L{binaryserver.bus.pykafka_options}.
"""

from __future__ import annotations

import ssl

from twisted.trial.unittest import SynchronousTestCase

from binaryserver.bus.pykafka_options import Address, parseSpec
from binaryserver.errors import ConfigError


class ParseSpecTests(SynchronousTestCase):
    """
    L{parseSpec}.
    """

    def test_hosts(self) -> None:
        """
        One or several brokers, IPv6 among them.
        """
        settings = parseSpec("pykafka://one:9092,[::1]:19092", "--bus")
        self.assertEqual(settings.seeds, (Address("one", 9092), Address("::1", 19092)))
        self.assertEqual([str(seed) for seed in settings.seeds], ["one:9092", "[::1]:19092"])
        self.assertEqual((settings.requestTimeout, settings.tls), (10.0, None))

    def test_options(self) -> None:
        """
        Options follow a question mark.
        """
        settings = parseSpec("pykafka://one:9092?request.timeout.ms=2500&security.protocol=SSL", "--bus")
        self.assertEqual(settings.requestTimeout, 2.5)
        assert settings.tls is not None
        self.assertEqual((settings.tls.verify_mode, settings.tls.check_hostname), (ssl.CERT_REQUIRED, True))
        self.assertGreaterEqual(settings.tls.minimum_version, ssl.TLSVersion.TLSv1_2)

    def test_refused(self) -> None:
        """
        What cannot be understood is named, together with the option.
        """
        for spec, named in (
            ("pykafka:one:9092", "pykafka:one:9092"),
            ("pykafka://", "HOST:PORT"),
            ("pykafka://one", "'one'"),
            ("pykafka://one:0", "'one:0'"),
            ("pykafka://one:65536", "'one:65536'"),
            ("pykafka://one:9092,", "''"),
            ("pykafka://:9092", "':9092'"),
            ("pykafka://one:9092?linger.ms=5", "'linger.ms'"),
            ("pykafka://one:9092?nonsense", "what follows the ?"),
            ("pykafka://one:9092?request.timeout.ms=5", "request.timeout.ms"),
            ("pykafka://one:9092?request.timeout.ms=many", "'many'"),
            ("pykafka://one:9092?request.timeout.ms=5000&request.timeout.ms=6000", "twice"),
            ("pykafka://one:9092?security.protocol=sasl_ssl", "'sasl_ssl'"),
            ("pykafka://one:9092?ssl.ca.location=ca.pem", "security.protocol=ssl"),
            ("pykafka://one:9092?security.protocol=ssl&ssl.key.location=k.pem", "ssl.certificate.location"),
            ("pykafka://one:9092?security.protocol=ssl&ssl.ca.location=missing.pem", "ssl.ca.location"),
        ):
            error = self.assertRaises(ConfigError, parseSpec, spec, "--bus")
            self.assertIn(named, str(error))
            self.assertTrue(str(error).startswith("--bus: "))
