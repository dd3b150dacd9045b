"""
Tests for L{binaryserver.endpoints.credentials}.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from OpenSSL import SSL
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.endpoints.credentials import ReloadingCredentials
from binaryserver.endpoints.errors import EndpointError
from binaryserver.endpoints.pemfiles import CredentialFiles, loadCredentials
from binaryserver.endpoints.tlscontext import TICKET_LIFETIME, makeContexts
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
        self.assertIsInstance(makeContexts(credentials).initial, SSL.Context)

    def test_chain(self) -> None:
        """
        The certificate's file may hold the chain behind it.
        """
        issued = Authority("Below", self.root).issueServer()
        certificate, key = issued.write(self.directory, "below")
        credentials = loadCredentials(CredentialFiles(certificate, key))
        self.assertEqual(credentials.chain, (issued.certificate, *issued.chain))
        self.assertIsInstance(makeContexts(credentials).initial, SSL.Context)

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

    def test_names(self) -> None:
        """
        Each C{*.pem} of a folder is a certificate with its key and its chain, for the DNS names that it has.
        """
        folder = f"{self.directory}/names"
        os.mkdir(folder)
        below = Authority("Below", self.root)
        one, two = below.issueServer("One.Example"), self.root.issueServer("*.two.example")
        self.put("names/1.pem", one.certificatePem() + one.keyPem())
        self.put("names/2.pem", two.keyPem() + two.certificatePem())
        self.put("names/.hidden.pem", b"nothing")
        self.put("names/notes.txt", b"nothing")
        named = loadCredentials(replace(self.files, names=folder)).named
        self.assertEqual(
            [(one.path, one.names) for one in named],
            [
                (f"{folder}/1.pem", ("one.example",)),
                (f"{folder}/2.pem", ("*.two.example",)),
            ],
        )
        self.assertEqual(named[0].chain, (one.certificate, below.certificate))

    def test_badNames(self) -> None:
        """
        A file of the folder that cannot be used is named, with its cause, in one line.
        """
        server, client = self.root.issueServer("a.example"), self.root.issueClient("862123", "fleet")
        pem, key = server.certificatePem(), server.keyPem()
        other = self.root.issueServer("a.example")
        weak = other.certificatePem() + other.keyPem(b"secret")
        cases: list[tuple[dict[str, bytes], str]] = [
            ({}, "sni={}: holds no file *.pem"),
            ({"x.pem": b"nothing"}, "sni={}/x.pem: holds no PEM certificates, or damaged ones"),
            ({"x.pem": pem}, "sni={}/x.pem: holds no PEM private key, or a damaged one"),
            ({"x.pem": pem + other.keyPem()}, "sni={}/x.pem: its key is not that of its first certificate"),
            ({"x.pem": weak}, "sni={}/x.pem: is encrypted; a key without a passphrase is needed"),
            (
                {"x.pem": client.certificatePem() + client.keyPem()},
                "sni={}/x.pem: its certificate has no DNS name to be shown for",
            ),
            (
                {"x.pem": pem + key, "y.pem": other.certificatePem() + other.keyPem()},
                "sni={0}/y.pem: a.example is a name of the certificate in {0}/x.pem too",
            ),
        ]
        for number, (content, expected) in enumerate(cases):
            folder = f"{self.directory}/{number}"
            os.mkdir(folder)
            for name, data in content.items():
                self.put(f"{number}/{name}", data)
            with self.subTest(expected):
                error = self.assertRaises(EndpointError, loadCredentials, replace(self.files, names=folder))
                self.assertEqual(str(error), expected.format(folder))
        missing = f"{self.directory}/missing"
        error = self.assertRaises(EndpointError, loadCredentials, replace(self.files, names=missing))
        self.assertEqual(str(error), f"sni={missing}: No such file or directory")

    def test_weak(self) -> None:
        """
        What OpenSSL itself refuses is told in its words.
        """
        credentials = loadCredentials(self.files)
        error = self.assertRaises(EndpointError, makeContexts, replace(credentials, key=self.root.key))
        self.assertIn("mismatch", str(error))


class ReloadingTests(CredentialsTestCase):
    """
    Files that change while the listener runs.
    """

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        os.mkdir(f"{self.directory}/names")
        self.putNamed("1.pem")
        files = replace(self.withList, names=f"{self.directory}/names")
        self.credentials = ReloadingCredentials(files, self.clock, maybeDeferred)
        self.credentials.start()
        self.told = 0
        self.credentials.onReload(self.tell)

    def putNamed(self, name: str) -> None:
        """
        Write one file of the folder of names.
        """
        issued = self.root.issueServer(f"{name}.example")
        self.put(f"names/{name}", issued.certificatePem() + issued.keyPem())

    def tell(self) -> None:
        """
        Whoever asked is told.
        """
        self.told += 1

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
        self.clock.pump([1.1] * 60)
        self.assertIs(self.context(), before)
        self.assertEqual(self.told, 0)

    def test_now(self) -> None:
        """
        Whoever wants them looked at now need not wait for that second, and it goes on as before; not once stopped.
        """
        before = self.context()
        self.put("ca.pem", self.root.certificatePem())
        self.credentials.lookNow()
        self.assertIsNot(self.context(), before)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.credentials.stop()
        before = self.context()
        self.put("ca.pem", self.root.certificatePem())
        self.credentials.lookNow()
        self.clock.advance(2)
        self.assertIs(self.context(), before)

    def test_changed(self) -> None:
        """
        A file that changed is used within a second, whichever it is and however it was written, and whoever asked is
        told once.
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
            lambda: self.putNamed("1.pem"),
            lambda: self.putNamed("2.pem"),
            lambda: os.remove(f"{self.directory}/names/2.pem"),
        ]
        for number, change in enumerate(changes, 1):
            before = self.context()
            change()
            self.assertIs(self.context(), before)
            self.clock.advance(1.01)
            after = self.context()
            self.assertIsNot(after, before)
            self.clock.advance(1.01)
            self.assertIs(self.context(), after)
            self.assertEqual(self.told, number)

    def test_bad(self) -> None:
        """
        Files that cannot be used change nothing, and are told once; good ones after them are used.
        """
        before = self.context()
        issued = self.root.issueServer()
        self.put("server.pem", issued.certificatePem())
        with capturedLogs() as logs:
            for _ in range(5):
                self.clock.advance(1.01)
                self.assertIs(self.context(), before)
        self.assertEqual(self.told, 0)
        self.assertEqual([event["log_level"] for event in logs], [LogLevel.error])
        self.assertIn("is not the key of the certificate", logs[0]["error"])
        self.put("server.key", issued.keyPem())
        self.clock.advance(1.01)
        self.assertIsNot(self.context(), before)

    def test_gone(self) -> None:
        """
        A file that is gone for a moment is a bad one, not an exception.
        """
        before = self.context()
        os.rename(f"{self.directory}/server.pem", f"{self.directory}/aside.pem")
        self.clock.advance(1.01)
        self.assertIs(self.context(), before)
        os.rename(f"{self.directory}/aside.pem", f"{self.directory}/server.pem")
        self.clock.advance(1.01)
        self.assertIsNot(self.context(), before)

    def test_rotated(self) -> None:
        """
        The keys of tickets, and so the context, are replaced though no file changes, also while the files cannot be
        used; nobody is told, as nothing else is new.
        """
        before = self.context()
        self.put("server.key", b"")
        with capturedLogs():
            self.clock.advance(TICKET_LIFETIME - 1)
        self.assertIs(self.context(), before)
        self.clock.advance(1.01)
        after = self.context()
        self.assertIsNot(after, before)
        self.clock.pump([TICKET_LIFETIME / 10] * 9)
        self.assertIs(self.context(), after)
        self.clock.pump([TICKET_LIFETIME / 10] * 2)
        self.assertIsNot(self.context(), after)
        self.assertEqual(self.told, 0)

    def test_stopped(self) -> None:
        """
        When nobody listens any more the files are not looked at; a look that is under way then changes nothing.
        """
        looks: list[Callable[[], None]] = []

        def later(function: Callable[..., object], *arguments: object) -> Deferred[object]:
            done: Deferred[object] = Deferred()
            looks.append(lambda: done.callback(function(*arguments)))
            return done

        credentials = ReloadingCredentials(self.withList, self.clock, later)
        before = credentials.serverConnectionForTLS(None).get_context()  # type: ignore[arg-type]
        self.credentials.stop()
        credentials.start()
        self.clock.advance(1.01)
        self.assertEqual((len(looks), self.clock.getDelayedCalls()), (1, []))
        self.root.issueServer().write(self.directory, "server")
        credentials.stop()
        looks[0]()
        self.assertIs(credentials.serverConnectionForTLS(None).get_context(), before)  # type: ignore[arg-type]
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_toldOfFailure(self) -> None:
        """
        One who fails when told keeps the others from nothing.
        """
        credentials = ReloadingCredentials(self.withList, self.clock, maybeDeferred)
        credentials.onReload(lambda: 1 // 0)  # type: ignore[arg-type]
        credentials.onReload(self.tell)
        credentials.reload()
        self.assertEqual((self.told, len(self.flushLoggedErrors(ZeroDivisionError))), (1, 1))

    def test_lookFailed(self) -> None:
        """
        A look that fails unforeseen is logged, and is not the last.
        """
        failures = [ZeroDivisionError()]

        def look(function: Callable[..., object], *arguments: object) -> object:
            if failures:
                raise failures.pop()
            return function(*arguments)

        self.credentials.stop()
        credentials = ReloadingCredentials(self.withList, self.clock, partial(maybeDeferred, look))
        credentials.onReload(self.tell)
        credentials.start()
        self.root.issueServer().write(self.directory, "server")
        self.clock.advance(1.01)
        self.assertEqual((self.told, len(self.flushLoggedErrors(ZeroDivisionError))), (0, 1))
        self.clock.advance(1.01)
        self.assertEqual(self.told, 1)

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
        self.credentials.stop()
        with capturedLogs() as logs:
            self.credentials = ReloadingCredentials(files, self.clock, maybeDeferred)
            self.credentials.start()
            self.clock.pump([1.01] * 3)
        self.assertEqual(
            [event["what"] for event in logs],
            ["the server's certificate", "the revocation list of O=Tests,CN=Test Root"],
        )
