"""
Tests for C{binaryserver/proto/}.
"""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.protos import TARGET, generate


class FreshnessTests(SynchronousTestCase):
    """
    The generated modules.
    """

    def test_areFresh(self) -> None:
        """
        They are what C{make proto} makes of C{proto/}.
        """
        try:
            import grpc_tools  # noqa: F401
        except ImportError:
            raise SkipTest("grpcio-tools is missing: make test installs it") from None
        folder = Path(self.mktemp())
        folder.mkdir()
        generate(folder)
        made = {path.name: path.read_text() for path in folder.glob("*_pb2.py*")}
        kept = {path.name: path.read_text() for path in TARGET.glob("*_pb2.py*")}
        self.assertEqual(sorted(made), sorted(kept))
        for name, text in made.items():
            self.assertEqual(text, kept[name], f"{name} is stale: make proto")
