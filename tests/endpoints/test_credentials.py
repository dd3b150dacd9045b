"""
Tests for L{binaryserver.endpoints.credentials}.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from OpenSSL import SSL
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.endpoints.credentials import CredentialFiles, ReloadingCredentials, loadCredentials, makeContext
from binaryserver.endpoints.errors import EndpointError
from tests.certificates import Authority, replaceFile

HOUR = timedelta(hours=1)


class CredentialsTestCase(SynchronousTestCase):
    """
    A folder of good files.
    """

    def setUp(self) -> None:
        self.directory = self.mktemp()
        os.mkdir(self.directory)
        self.root = Authority()
        certificate, key = self.root.issueServer().write(self.directory, "server")
        self.files = CredentialFiles(certificate, key, self.put("ca.pem", self.root.certificatePem()))
        self.withList = replace(self.files, revocations=self.put("crl.pem", self.root.revoke()))

    def put(self, name: str, content: bytes) -> str:
        """
        Write a file, give its path.
        """
        path = f"{self.directory}/{name}"
        replaceFile(path, content)
        return path


class LoadingTests(CredentialsTestCase):
    """
    What may stand in the files.
    """

    def test_good(self) -> None:
        """
        Certificate, key, authorities and revocation lists that fit make a context.
        """
        credentials = loadCredentials(self.withList)
        self.assertEqual(
            (len(credentials.chain), len(credentials.authorities), len(credentials.revocations)), (1, 1, 1)
        )
        self.assertIsInstance(makeContext(credentials), SSL.Context)

    def test_chain(self) -> None:
        """
        The certificate's file may hold the chain behind it.
        """
        issued = Authority("Below", self.root).issueServer()
        certificate, key = issued.write(self.directory, "below")
        credentials = loadCredentials(CredentialFiles(certificate, key))
        self.assertEqual(credentials.chain, (issued.certificate, *issued.chain))
        self.assertIsInstance(makeContext(credentials), SSL.Context)

    def test_oneFile(self) -> None:
        """
        Certificate and key may share a file.
        """
        issued = self.root.issueServer()
        path = self.put("both.pem", issued.keyPem() + issued.certificatePem())
        self.assertEqual(loadCredentials(CredentialFiles(path, path)).chain, (issued.certificate,))

    def test_bad(self) -> None:
        """
        What cannot be used is named with its cause, in one line.
        """
        other, stranger = self.root.issueServer(), Authority("Stranger")
        weak = rsa.generate_private_key(65537, 2048).private_bytes(
            Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
        )
        damaged = self.root.issueServer().certificatePem().replace(b"M", b"N", 40)
        text = self.put("text.pem", b"nothing of the kind\n")
        missing = f"{self.directory}/missing.pem"
        cases: list[tuple[CredentialFiles, str]] = [
            (replace(self.files, certificate=missing), f"cert={missing}: No such file or directory"),
            (replace(self.files, certificate=self.directory), f"cert={self.directory}: Is a directory"),
            (replace(self.files, certificate=text), f"cert={text}: holds no PEM certificates, or damaged ones"),
            (replace(self.files, certificate=self.put("damaged.pem", damaged)), "or damaged ones"),
            (replace(self.files, key=missing), f"key={missing}: No such file or directory"),
            (replace(self.files, key=text), f"key={text}: holds no PEM private key, or a damaged one"),
            (replace(self.files, key=self.put("secret.key", other.keyPem(b"secret"))), "is encrypted"),
            (replace(self.files, key=self.put("other.key", other.keyPem())), "is not the key of the certificate in"),
            (replace(self.files, key=self.put("rsa.key", weak)), "is not the key of the certificate in"),
            (replace(self.files, clientAuthorities=missing), f"clientca={missing}: No such file or directory"),
            (replace(self.files, clientAuthorities=text), f"clientca={text}: holds no PEM certificates"),
            (replace(self.withList, revocations=missing), f"crl={missing}: No such file or directory"),
            (replace(self.withList, revocations=text), f"crl={text}: holds no PEM revocation list"),
            (replace(self.withList, clientAuthorities=None), "of no use without clientca"),
            (
                replace(self.withList, revocations=self.put("strange.pem", stranger.revoke())),
                "holds no revocation list signed by O=Tests,CN=Test Root of clientca",
            ),
            (
                # The same name, but another's key.
                replace(self.withList, revocations=self.put("forged.pem", Authority().revoke())),
                "holds no revocation list signed by",
            ),
        ]
        for files, expected in cases:
            with self.subTest(expected):
                error = self.assertRaises(EndpointError, loadCredentials, files)
                self.assertIn(expected, str(error))
                self.assertNotIn("\n", str(error))

    def test_weak(self) -> None:
        """
        What OpenSSL itself refuses is told in its words.
        """
        credentials = loadCredentials(self.files)
        error = self.assertRaises(EndpointError, makeContext, replace(credentials, key=self.root.key))
        self.assertIn("mismatch", str(error))


class ReloadingTests(CredentialsTestCase):
    """
    Files that change while the listener runs.
    """

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.credentials = ReloadingCredentials(self.withList, self.clock)

    def context(self) -> object:
        """
        What a link that begins now would use.
        """
        connection = self.credentials.serverConnectionForTLS(None)  # type: ignore[arg-type]
        return connection.get_context()

    def test_unchanged(self) -> None:
        """
        Nothing is read again without need.
        """
        before = self.context()
        self.clock.advance(60)
        self.assertIs(self.context(), before)

    def test_changed(self) -> None:
        """
        A file that changed is used within two seconds, whichever it is and however it was written.
        """
        issued = self.root.issueServer()

        def inPlace(path: str, content: bytes) -> None:
            with open(path, "r+b") as file:
                file.write(content)
                file.truncate()
            os.utime(path, (1, self.clock.seconds()))

        changes: list[Callable[[], object]] = [
            lambda: issued.write(self.directory, "server"),
            lambda: self.put("ca.pem", self.root.certificatePem()),
            lambda: self.put("crl.pem", self.root.revoke([self.root.issueClient("a", "b")])),
            lambda: inPlace(f"{self.directory}/crl.pem", self.root.revoke()),
        ]
        for change in changes:
            before = self.context()
            change()
            self.assertIs(self.context(), before)
            self.clock.advance(2.1)
            after = self.context()
            self.assertIsNot(after, before)
            self.clock.advance(2.1)
            self.assertIs(self.context(), after)

    def test_bad(self) -> None:
        """
        Files that cannot be used change nothing, and are told once; good ones after them are used.
        """
        before = self.context()
        issued = self.root.issueServer()
        self.put("server.pem", issued.certificatePem())
        with capturedLogs() as logs:
            for _ in range(5):
                self.clock.advance(2.1)
                self.assertIs(self.context(), before)
        self.assertEqual([event["log_level"] for event in logs], [LogLevel.error])
        self.assertIn("is not the key of the certificate", logs[0]["error"])
        self.put("server.key", issued.keyPem())
        self.clock.advance(2.1)
        self.assertIsNot(self.context(), before)

    def test_gone(self) -> None:
        """
        A file that is gone for a moment is a bad one, not an exception.
        """
        before = self.context()
        os.rename(f"{self.directory}/server.pem", f"{self.directory}/aside.pem")
        self.clock.advance(2.1)
        self.assertIs(self.context(), before)
        os.rename(f"{self.directory}/aside.pem", f"{self.directory}/server.pem")
        self.clock.advance(2.1)
        self.assertIsNot(self.context(), before)

    def test_explicit(self) -> None:
        """
        A reload that is asked for happens at once, and its failure is the asker's.
        """
        before = self.context()
        self.credentials.reload()
        after = self.context()
        self.assertIsNot(after, before)
        self.put("server.key", b"")
        self.assertRaises(EndpointError, self.credentials.reload)
        self.assertIs(self.context(), after)

    def test_expired(self) -> None:
        """
        What has expired is told once, and serving goes on: boxes may have no clock, or no certificate.
        """
        certificate, key = self.root.issueServer(lifetime=-HOUR).write(self.directory, "old")
        files = replace(self.withList, certificate=certificate, key=key)
        self.put("crl.pem", self.root.revoke(lifetime=-HOUR))
        with capturedLogs() as logs:
            self.credentials = ReloadingCredentials(files, self.clock)
            for _ in range(3):
                self.clock.advance(2.1)
                self.context()
        self.assertEqual(
            [event["what"] for event in logs],
            ["the server's certificate", "the revocation list of O=Tests,CN=Test Root"],
        )
