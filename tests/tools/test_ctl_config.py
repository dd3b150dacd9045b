"""
Tests for C{binaryserver-ctl config check}, as operators call it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.gatewayprocess import ROOT


class CheckTests(SynchronousTestCase):
    """
    Files that are right and wrong.
    """

    def check(self, text: str, *options: str) -> tuple[int, str, str]:
        """
        Check a file of this content.

        @return: the exit status, and what was printed to standard output and error, the file's path as FILE
        """
        path = Path(self.mktemp())
        path.write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "binaryserver.tools.ctl", "config", "check", str(path), *options],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": str(ROOT), "BINARYSERVER_WORKERS": "nonsense"},
        )
        self.path = path
        return done.returncode, done.stdout.replace(str(path), "FILE"), done.stderr.replace(str(path), "FILE")

    def test_good(self) -> None:
        """
        One with which a gateway could start. Nothing is opened for it, nor made.
        """
        folder = Path(self.mktemp())
        text = f'bus = "sqlite:{folder}/bus"\nsessions = "redis://127.0.0.1:1/0"\nlog-level = "warn x.y=debug"\n'
        for workers in ("", "workers = 2\n"):
            status, out, err = self.check(text + workers)
            self.assertEqual((status, err), (0, ""))
            self.assertTrue(out.startswith("FILE: a gateway can start with it"), out)
        self.assertFalse(folder.exists())

    def test_all(self) -> None:
        """
        All that is wrong is told at once, with line and key; as JSON if wanted.
        """
        text = "windoww = 1\n\nworkers = 0\n"
        status, out, err = self.check(text)
        self.assertEqual((status, out), (1, ""))
        self.assertEqual(
            err,
            "binaryserver-ctl: FILE: line 1: windoww is no setting; window is\n"
            "binaryserver-ctl: FILE: line 3: workers cannot be used: 0 is not a whole number of at least 1\n",
        )
        status, out, err = self.check(text, "--json")
        self.assertEqual((status, err), (1, ""))
        told = json.loads(out)
        self.assertEqual([(one["line"], one["key"]) for one in told["problems"]], [(1, "windoww"), (3, "workers")])

    def test_values(self) -> None:
        """
        Values that only those who use them can judge.
        """
        for text, words in (
            (
                'bus = "sqlite:x"\nsessions = "nosuch:a"\n',
                "line 2: sessions cannot be used: 'nosuch:a' names no back end",
            ),
            ('md30 = "tls:1:cert=/nowhere:key=/nowhere"\n', "line 1: md30 cannot be used: "),
            (
                'http = "tcp:1"\nhttp-token-file = "/nowhere"\n',
                "line 2: http-token-file cannot be used: /nowhere: No such",
            ),
            ('\nlog-level = "loud"\n', "line 2: log-level cannot be used: 'loud' is neither debug"),
            ('log-format = "xml"\n', "line 1: log-format cannot be used: 'xml' is neither text nor json"),
            ('workers = 2\nbus = "memory:"\n', "line 2: bus cannot be used: memory: is one process's own"),
            ('md21-cert = "/nowhere"\n', "md21-key cannot be used: is needed with --md21-cert"),
            ("bus =\n", "line 1: Invalid value"),
        ):
            status, out, err = self.check(text)
            self.assertEqual((status, out), (1, ""), err)
            self.assertIn(f"FILE: {words}", err)
            self.assertEqual(err.count("\n"), 1, err)
