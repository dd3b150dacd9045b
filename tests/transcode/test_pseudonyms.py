"""
Tests for L{binaryserver.transcode.pseudonyms}.
"""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.directory.records import Account, PrivacyPolicy
from binaryserver.errors import ConfigError
from binaryserver.model import BoxKey
from binaryserver.transcode.pseudonyms import Pseudonyms, PseudonymsUnavailable

PSEUDONYMOUS = PrivacyPolicy(isPseudonymous=True)
BOX = BoxKey("acme", "350000000000001")
KEY = bytes(range(32))

names = st.text("ABCXYZabcxyz0189._-", min_size=1, max_size=64)


class PseudonymsTests(SynchronousTestCase):
    """
    L{Pseudonyms}.
    """

    def setUp(self) -> None:
        """
        With a key.
        """
        self.pseudonyms = Pseudonyms(KEY)

    @settings(max_examples=200, deadline=None)
    @given(names, names)
    def test_thereAndBack(self, account: str, asset: str) -> None:
        """
        Any asset comes back, from a name that can stand in keys, in C{ce_id} and in URLs, and is another one in another
        account.
        """
        named = self.pseudonyms.published(BoxKey(account, asset), PSEUDONYMOUS)
        self.assertEqual(named.account, account)
        self.assertRegex(named.asset, r"\A[A-Za-z0-9_-]{43,107}\Z")
        self.assertEqual(self.pseudonyms.real(account, named.asset), asset)
        self.assertIsNone(self.pseudonyms.real(account + "x", named.asset))

    def test_alwaysTheSame(self) -> None:
        """
        In every process that has the key, after whatever it made in between; for ever, or consumers lose track of the
        box. Another key gives others.
        """
        self.assertEqual(
            self.pseudonyms.published(BOX, PSEUDONYMOUS).asset, "8bOQGy_Mcf9GsabwzNv8YTUej7eToky2aBoRHzG3c6g"
        )
        for number in range(40_000):
            self.pseudonyms.published(BoxKey("acme", str(number)), PSEUDONYMOUS)
        self.assertEqual(self.pseudonyms.published(BOX, PSEUDONYMOUS), Pseudonyms(KEY).published(BOX, PSEUDONYMOUS))
        self.assertNotEqual(
            self.pseudonyms.published(BOX, PSEUDONYMOUS), Pseudonyms(KEY[::-1]).published(BOX, PSEUDONYMOUS)
        )

    def test_lengthTellsLittle(self) -> None:
        """
        Assets of up to 16 characters have pseudonyms of one length.
        """
        lengths = {len(self.pseudonyms.published(BoxKey("acme", "1" * n), PSEUDONYMOUS).asset) for n in range(1, 17)}
        self.assertEqual(len(lengths), 1)

    def test_whatIsNone(self) -> None:
        """
        A real asset, nothing, anything, and what differs from a pseudonym in one character, be it one that a decoder
        would pass over, stand for no box.
        """
        good = self.pseudonyms.published(BOX, PSEUDONYMOUS).asset
        wrong = [
            "",
            BOX.asset,
            "x" * 43,
            "é",
            "\ud800",
            good[:-1],
            good + "=",
            good + "A",
            " " + good,
            good + "\n",
            good[:20],
        ]
        wrong += [f"{good[:at]}{'B' if good[at] != 'B' else 'C'}{good[at + 1 :]}" for at in range(len(good))]
        wrong += [good[:20] + extra + good[20:] for extra in "!.~+/"]
        for text in wrong:
            self.assertIsNone(self.pseudonyms.real("acme", text), text)
        self.assertEqual(self.pseudonyms.real("acme", good), BOX.asset)

    @settings(max_examples=200, deadline=None)
    @given(st.text(max_size=120))
    def test_anyText(self, text: str) -> None:
        """
        Whatever a message names, it is a pseudonym or it is not.
        """
        self.assertIsNone(self.pseudonyms.real("acme", text))

    def test_whoAsksForNone(self) -> None:
        """
        Other accounts' boxes keep their names.
        """
        self.assertEqual(self.pseudonyms.published(BOX, PrivacyPolicy(positionDigits=2)), BOX)

    def test_unknownTerms(self) -> None:
        """
        Of whom it is not known whether they ask for pseudonyms have one where there can be any.
        """
        self.assertEqual(self.pseudonyms.published(BOX, None), self.pseudonyms.published(BOX, PSEUDONYMOUS))
        self.assertEqual(Pseudonyms().published(BOX, None), BOX)

    def test_withoutKey(self) -> None:
        """
        Nothing stands in for a pseudonym: the account's boxes may not come in, and others' may.
        """
        none = Pseudonyms()
        self.assertRaises(PseudonymsUnavailable, none.published, BOX, PSEUDONYMOUS)
        self.assertRaises(PseudonymsUnavailable, none.real, "acme", "x" * 43)
        self.assertIn("--pseudonym-key-file", none.obstacle(Account("acme", privacy=PSEUDONYMOUS)))
        self.assertEqual(none.obstacle(Account("acme")), "")
        self.assertEqual(self.pseudonyms.obstacle(Account("acme", privacy=PSEUDONYMOUS)), "")

    def test_neitherKeyNorAssetIsShown(self) -> None:
        """
        What somebody might log of it gives nothing away.
        """
        self.pseudonyms.published(BOX, PSEUDONYMOUS)
        shown = f"{self.pseudonyms!r} {self.pseudonyms}"
        self.assertNotIn(BOX.asset, shown)
        self.assertNotIn(KEY.hex(), shown)


class FileTests(SynchronousTestCase):
    """
    L{Pseudonyms.fromFile}.
    """

    def write(self, content: bytes) -> str:
        """
        A key file.
        """
        path = Path(self.mktemp())
        path.write_bytes(content)
        return str(path)

    def test_forms(self) -> None:
        """
        Random bytes, or hex digits, with or without the line's end that an editor makes.
        """
        asset = Pseudonyms(KEY).published(BOX, PSEUDONYMOUS)
        for content in (
            KEY,
            KEY.hex().encode(),
            KEY.hex().upper().encode() + b"\n",
            b" " + KEY.hex().encode() + b"\r\n",
        ):
            self.assertEqual(Pseudonyms.fromFile(self.write(content)).published(BOX, PSEUDONYMOUS), asset, content)
        long = os.urandom(100)
        self.assertNotEqual(Pseudonyms.fromFile(self.write(long)).published(BOX, PSEUDONYMOUS), asset)

    def test_noFile(self) -> None:
        """
        Without the option there is no key.
        """
        self.assertFalse(Pseudonyms.fromFile("").hasKey)
        self.assertTrue(Pseudonyms.fromFile(self.write(KEY)).hasKey)

    def test_whatIsNoKey(self) -> None:
        """
        One line names the option, and what is wrong; nothing of the file.
        """
        for content, why in ((b"", "not 0 bytes"), (b"hunter2", "not 7 bytes"), (b"x" * 5000, "not 4097 bytes")):
            error = self.assertRaises(ConfigError, Pseudonyms.fromFile, self.write(content))
            self.assertEqual(error.option, "--pseudonym-key-file")
            self.assertIn(why, str(error))
            self.assertNotIn("hunter2", str(error))
        error = self.assertRaises(ConfigError, Pseudonyms.fromFile, self.mktemp())
        self.assertIn("No such file", str(error))
