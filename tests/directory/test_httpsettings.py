"""
Tests for L{binaryserver.directory.httpsettings}.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.directory.httpsettings import parseSpec
from binaryserver.errors import ConfigError
from tests.certificates import Authority, replaceFile


class ParseSpecTests(SynchronousTestCase):
    """
    The option's value.
    """

    def errorOf(self, spec: str) -> str:
        """
        What is wrong with it.
        """
        error = self.assertRaises(ConfigError, parseSpec, spec, "--directory")
        self.assertEqual(error.option, "--directory")
        self.assertNotIn("\n", str(error))
        return str(error)

    def test_defaults(self) -> None:
        """
        Host and base, and what is not said.
        """
        for spec, base in {
            "https://directory.example": "https://directory.example",
            "https://directory.example/": "https://directory.example",
            "https://directory.example:8443/api/v1": "https://directory.example:8443/api/v1",
            "http://127.0.0.1:8000/api/v1/": "http://127.0.0.1:8000/api/v1",
            "http://[::1]:8000/a-b_c.d~/%20": "http://[::1]:8000/a-b_c.d~/%20",
            "HTTPS://Directory.example:/A": "https://directory.example/A",
        }.items():
            settings = parseSpec(spec, "--directory")
            self.assertEqual(settings.base, base)
            self.assertEqual((settings.timeout, settings.retries, settings.concurrency), (3.0, 2, 8))
            self.assertEqual(settings.tokenFile, "")
            self.assertFalse(settings.isExposed)

    def test_options(self) -> None:
        """
        Every one.
        """
        ca = self.mktemp()
        replaceFile(ca, Authority().certificatePem() + Authority("Other").certificatePem())
        query = f"timeout=0.5&retries=0&concurrency=100&token-file=/run/a%26b&ca={ca}"
        settings = parseSpec(f"https://directory.example/v1?{query}", "--directory")
        self.assertEqual(settings.base, "https://directory.example/v1")
        self.assertEqual((settings.timeout, settings.retries, settings.concurrency), (0.5, 0, 100))
        self.assertEqual(settings.tokenFile, "/run/a&b")

    def test_exposed(self) -> None:
        """
        Without TLS only this host's own addresses are private.
        """
        for host, isExposed in {
            "localhost": False,
            "127.0.0.1": False,
            "127.3.4.5": False,
            "[::1]": False,
            "10.0.0.1": True,
            "localhost.example": True,
            "directory": True,
            "[::2]": True,
        }.items():
            self.assertEqual(parseSpec(f"http://{host}", "--directory").isExposed, isExposed, host)
            self.assertFalse(parseSpec(f"https://{host}", "--directory").isExposed, host)

    def test_refused(self) -> None:
        """
        What cannot be meant is refused, with what can be.
        """
        for spec, reason in {
            "http:": "the form is http[s]://HOST",
            "http://": "the form is",
            "https:///v1": "the form is",
            "https://host:port": "the form is",
            "https://host:0": "the form is",
            "https://host:99999": "the form is",
            "https://[::1": "the form is",
            "https://host/v1#x": "the form is",
            "https://host/v1#": "the form is",
            "https://ho st/": "no URL has",
            "https://host/a b": "no URL has",
            "https://host/é": "no URL has",
            "https://hö.example/": "no URL has",
            "https://host//v1": "no URL has",
            "https://host/v1/../v2": "has . or ..",
            "https://host?timeout": "option=value",
            "https://host?time=3": "has no option 'time'; known: ca, concurrency, retries, timeout, token-file",
            "https://host?token-file=": "token-file is empty",
            "https://host?retries=1&retries=2": "given twice",
            "https://host?timeout=0": "timeout is '0'; it must be a number of s, 0.1 to 60",
            "https://host?timeout=61": "0.1 to 60",
            "https://host?timeout=nan": "0.1 to 60",
            "https://host?retries=-1": "a whole number, 0 to 10",
            "https://host?retries=1.5": "a whole number, 0 to 10",
            "https://host?concurrency=0": "1 to 100",
            "https://host?concurrency=101": "1 to 100",
            "http://host?ca=/x": "ca needs TLS: https://",
            "https://host?ca=/nowhere": "ca: cannot read '/nowhere': No such file or directory",
        }.items():
            self.assertIn(reason, self.errorOf(spec), spec)

    def test_authorities(self) -> None:
        """
        A file that has no certificates in it, or broken ones.
        """
        ca = self.mktemp()
        broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
        for content, reason in {
            b"": "has no certificate in it",
            broken: "a certificate in it that cannot be read",
        }.items():
            replaceFile(ca, content)
            self.assertIn(reason, self.errorOf(f"https://host?ca={ca}"))

    def test_noSecrets(self) -> None:
        """
        A password in the URL is refused, and not shown.
        """
        for spec in ("https://user:hunter2@host/v1", "http://:hunter2@host", "https://hunter2@host"):
            error = self.errorOf(spec)
            self.assertIn("token-file=PATH", error)
            self.assertNotIn("hunter2", error)

    @given(st.text(max_size=60))
    def test_anything(self, text: str) -> None:
        """
        Anything is settings or the one error.
        """
        for scheme in ("http://", "https://h", "http://h?", "https://h/"):
            try:
                settings = parseSpec(scheme + text, "--directory")
            except ConfigError as error:
                self.assertNotIn("\n", str(error))
            else:
                settings.base.encode("ascii")
                self.assertFalse(set(" ?#@\n\t\0") & set(settings.base), settings.base)
