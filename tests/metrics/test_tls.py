"""
Tests for L{binaryserver.metrics.tls}.
"""

from __future__ import annotations

import os
from datetime import timedelta

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.endpoints.credentials import CredentialFiles, ReloadingCredentials
from binaryserver.metrics.tls import TlsCollector
from tests.certificates import Authority, replaceFile


class TlsCollectorTests(SynchronousTestCase):
    """
    Several listeners.
    """

    def setUp(self) -> None:
        self.collector = TlsCollector()
        self.folder = self.mktemp()
        os.makedirs(self.folder)
        self.root = Authority()

    def values(self, family: str) -> dict[str, float]:
        """
        By the one label.
        """
        found = next(one for one in self.collector.collect() if one.name == f"binaryserver_{family}")
        return {next(iter(sample.labels.values())): sample.value for sample in found.samples}

    def listener(self, name: str, days: int, listDays: int = 0) -> ReloadingCredentials:
        """
        One whose certificate, and revocation list if it has one, is good for so long.
        """
        certificate, key = self.root.issueServer(lifetime=timedelta(days=days)).write(self.folder, name)
        files = CredentialFiles(certificate, key)
        if listDays:
            authority, listed = (os.path.join(self.folder, f"{name}.{kind}") for kind in ("ca", "crl"))
            replaceFile(authority, self.root.certificatePem())
            replaceFile(listed, self.root.revoke(lifetime=timedelta(days=listDays)))
            files = CredentialFiles(certificate, key, authority, listed)
        credentials = ReloadingCredentials(files, Clock())
        self.collector.add(credentials)
        return credentials

    def test_none(self) -> None:
        """
        Without TLS the families are there, at 0.
        """
        self.collector.add(None)
        self.assertEqual(self.values("tls_handshakes"), {"done": 0, "failed": 0})
        self.assertEqual(self.values("certificate_expiry_timestamp_seconds"), {"certificate": 0, "revocations": 0})

    def test_first(self) -> None:
        """
        What expires first of each kind is told.
        """
        first = self.listener("a", 5, 30)
        self.listener("b", 9, 3)
        self.listener("c", 7)
        expiries = self.values("certificate_expiry_timestamp_seconds")
        self.assertEqual(expiries["certificate"], first.expiries[0][0].timestamp())
        self.assertAlmostEqual(expiries["revocations"] - expiries["certificate"], -2 * 86_400, delta=60)

    def test_handshakes(self) -> None:
        """
        Those of all listeners are told together.
        """
        for number, name in enumerate("ab", 1):
            counts = self.listener(name, 5).handshakes
            counts.done, counts.failed = number, 10 * number
        self.assertEqual(self.values("tls_handshakes"), {"done": 3, "failed": 30})
