"""
Tests for L{binaryserver.directory.parsing} and L{binaryserver.directory.tables}.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.directory.parsing import parseAccount, parseBox
from binaryserver.directory.records import Account, AccountLimits, Box, PrivacyPolicy
from binaryserver.directory.tables import BadRecord, Table, readTable
from binaryserver.errors import DirectoryUnavailable
from binaryserver.model import Clouds
from binaryserver.transcode.events import isName
from tests.directory.samples import FINGERPRINT, HASH, fullAccount, fullBox


def account(isStrict: bool = True, **keys: Any) -> Account:
    """
    The account of these keys.
    """
    return parseAccount({"name": "acme", **keys}, isStrict)


def box(isStrict: bool = True, **keys: Any) -> Box:
    """
    The box of these keys.
    """
    return parseBox({"asset": "b", **keys}, "acme", isStrict)


class ParsingTests(SynchronousTestCase):
    """
    Accounts and boxes.
    """

    def faultOf(self, parse: Callable[..., object], *arguments: Any, **keys: Any) -> str:
        """
        What is wrong.
        """
        return str(self.assertRaises(BadRecord, parse, *arguments, **keys))

    def test_defaults(self) -> None:
        """
        What is not said has its default.
        """
        self.assertEqual(account(), Account("acme"))
        self.assertEqual(account(limits={}, privacy={}), Account("acme"))
        self.assertEqual(box(), Box("acme", "b"))

    def test_clouds(self) -> None:
        """
        Each cloud by its name.
        """
        for cloud in Clouds:
            self.assertIs(account(cloud=cloud.value).clouds, cloud)
        self.assertEqual(
            self.faultOf(account, cloud="CloudNext"),
            "account \"acme\": cloud: 'CloudNext' is none; known: cloudnext, cloudconnect, both",
        )

    def test_kinds(self) -> None:
        """
        A value of another kind than the key's is refused, true and 1 told apart.
        """
        kinds: dict[str, tuple[Any, ...]] = {
            "active": (1, "true", []),
            "cloud": (True, {}),
            "secret_hash": (3, [HASH], True),
            "require_tls": ("yes", 0),
            "require_certificate": (1.0,),
            "message_expiry": ("3600", True, [1]),
            "limits": ([], 10, True),
            "privacy": ("none",),
            "channels": ({}, "door"),
            "fields": ({}, 8),
        }
        for key, values in kinds.items():
            for value in values:
                self.assertIn(f'account "acme": {key}', self.faultOf(account, **{key: value}).replace(", ", ": "))
        kinds = {
            "revoked": (1, "no"),
            "secret_hash": (1,),
            "certificate": (b"", 0x0123, date(2026, 1, 1)),
            "metadata": ([], "bus", {"a": 1}, {"a": None}, {"": "a"}, {3: "a"}),
        }
        for key, values in kinds.items():
            for value in values:
                self.assertIn(f'account "acme", box "b": {key}: ', self.faultOf(box, **{key: value}))

    def test_ranges(self) -> None:
        """
        The ends of each range are in, what is beyond is out.
        """
        self.assertEqual(account(message_expiry=0).messageExpiry, 0.0)
        self.assertEqual(
            account(limits={"links": 2**31 - 1, "connects_per_second": 0.001, "messages_per_second": 10**12}).limits,
            AccountLimits(2**31 - 1, 0.001, 1e12),
        )
        for digits in (-1, 0, 7):
            self.assertEqual(account(privacy={"position_digits": digits}).privacy, PrivacyPolicy(positionDigits=digits))
        nan, endless = float("nan"), float("inf")
        bad: tuple[dict[str, Any], ...] = (
            *({"message_expiry": value} for value in (-1, -0.001, nan, endless, 10**400, 1e9)),
            *({"limits": {"links": value}} for value in (-1, 2**31, 1.0, True)),
            *({"limits": {"bytes_per_second": value}} for value in (-1, nan, endless, 10**400)),
            *({"privacy": {"position_digits": value}} for value in (-2, 8, 3.0, True)),
            *({"privacy": {"drop_fields": [value]}} for value in (0, -1, 2**32, 8.0, True, "8", None)),
            {"channels": [{"name": "door", "message_expiry": -1}]},
        )
        for keys in bad:
            self.assertIn('account "acme"', self.faultOf(account, **keys))

    def test_unknownKeys(self) -> None:
        """
        In a file, a key that means nothing is refused at every depth, with the one that was meant; from a newer service
        it is passed over.
        """
        for keys, text in (
            ({"Active": True}, "account \"acme\": 'Active' is no key; did you mean active?"),
            ({"limits": {"link": 3}}, "account \"acme\", limits: 'link' is no key; did you mean links?"),
            (
                {"privacy": {"dropfields": []}},
                "account \"acme\", privacy: 'dropfields' is no key; did you mean drop_fields?",
            ),
            (
                {"channels": [{"name": "a"}, {"name": "b", "expiry": 3}]},
                "account \"acme\", channel 2: 'expiry' is no key; did you mean message_expiry?",
            ),
            (
                {"fields": [{"id": 8, "name": "A", "type": "int", "zzz": 1}]},
                "account \"acme\", field 1: 'zzz' is no key; known: id, name, size, type, unit",
            ),
        ):
            self.assertEqual(self.faultOf(account, **keys), text)
            if "fields" not in keys:
                account(False, **keys)
        self.assertEqual(
            account(False, fields=[{"id": 8, "name": "A", "type": "int", "zzz": 1}]).fields, {8: ("A", "int")}
        )
        self.assertIn("did you mean revoked?", self.faultOf(box, revokd=True))
        self.assertEqual(box(False, revokd=True, colour={"x": [1]}), Box("acme", "b"))

    def test_nulls(self) -> None:
        """
        A service's null is a key that is not there; but not for a name.
        """
        keys = fullAccount()
        del keys["name"], keys["box"]
        self.assertEqual(account(False, **dict.fromkeys(keys)), Account("acme"))
        self.assertEqual(box(False, **dict.fromkeys(("revoked", "secret_hash", "certificate", "metadata"))), box())
        self.assertIn("name: is missing", self.faultOf(account, False, name=None))
        self.assertIn("has no value", self.faultOf(account, active=None))

    def test_names(self) -> None:
        """
        Names are those that keys on the bus can have.
        """
        for name in ("", "a/b", "a b", "x" * 65, "é", "a\n"):
            for fault in (
                self.faultOf(account, name=name),
                self.faultOf(account, channels=[{"name": name}]),
                self.faultOf(box, asset=name),
            ):
                self.assertIn("no name" if name else "is missing", fault)
        self.assertIn("no proper Unicode", self.faultOf(account, name="\ud800"))
        self.assertEqual(self.faultOf(parseAccount, {}, True), "account without a name: name: is missing")

    def test_secrets(self) -> None:
        """
        A secret's place takes hashes of argon2id only; what is wrong with one is not shown, and what makes one is said.
        """
        self.assertEqual(account(secret_hash=HASH).secretHash, HASH)
        self.assertEqual(account(secret_hash="").secretHash, "")
        for text in (
            "hunter2",
            HASH.replace("argon2id", "argon2i"),
            HASH.replace("v=19", "v=16"),
            HASH + "\n",
            HASH[:-40],
            "$2b$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW",
        ):
            for fault in (self.faultOf(account, secret_hash=text), self.faultOf(box, False, secret_hash=text)):
                self.assertIn("binaryserver-ctl hash-secret", fault)
                self.assertNotIn(text, fault)
        for cost in ("m=9999999,t=2,p=1", "m=19456,t=0,p=1", "m=19456,t=101,p=1", "m=19456,t=2,p=65", "m=7,t=2,p=1"):
            self.assertIn("its cost", self.faultOf(account, secret_hash=HASH.replace("m=19456,t=2,p=1", cost)))
        for key in ("secret", "password", "Secret"):
            for fault in (self.faultOf(account, **{key: "hunter2"}), self.faultOf(box, **{key: "hunter2"})):
                self.assertIn("secret_hash, which binaryserver-ctl hash-secret makes", fault)
                self.assertNotIn("hunter2", fault)

    def test_certificate(self) -> None:
        """
        Fingerprints in the forms that tools print.
        """
        colons = ":".join(FINGERPRINT[place : place + 2] for place in range(0, 64, 2))
        for text in (FINGERPRINT, FINGERPRINT.upper(), colons, colons.upper()):
            self.assertEqual(box(certificate=text).certificate, FINGERPRINT)
        for text in (
            FINGERPRINT[:-1],
            FINGERPRINT + "0",
            FINGERPRINT[:-1] + "g",
            "\u0660" * 64,
            "SHA256 " + FINGERPRINT,
        ):
            self.assertIn("64 hexadecimal digits", self.faultOf(box, certificate=text))

    def test_metadata(self) -> None:
        """
        It is bounded.
        """
        most = {f"{number:0128}": "ü" * 1024 for number in range(64)}
        self.assertEqual(box(metadata=most).metadata, most)
        for metadata in (
            {str(number): "" for number in range(65)},
            {"x" * 129: ""},
            {"x": "x" * 1025},
            {"x": "\udc00"},
            {"\udc00": "x"},
        ):
            self.faultOf(box, metadata=metadata).encode()

    def test_lists(self) -> None:
        """
        Lists are bounded, and have nothing twice.
        """
        self.assertIn("is there twice", self.faultOf(account, channels=[{"name": "a"}, {"name": "a"}]))
        field = {"id": 8, "name": "A", "type": "int"}
        self.assertIn("is there twice", self.faultOf(account, fields=[field, {**field, "name": "B"}]))
        self.assertIn("needs id", self.faultOf(account, fields=[{}]))
        self.assertIn("field 1: is to be a table", self.faultOf(account, fields=[8]))
        self.assertIn("10001 entries", self.faultOf(account, fields=[field] * 10_001))
        self.assertIn("1001 entries", self.faultOf(account, channels=[{"name": "a"}] * 1001))

    def test_readOnly(self) -> None:
        """
        What was parsed cannot be changed, nor through what it was parsed from.
        """
        given = fullAccount()
        del given["box"]
        parsed, before = parseAccount(given, True), parseAccount(json.loads(json.dumps(given)), True)
        given["fields"].clear()
        given["channels"][0]["message_expiry"] = 1
        self.assertEqual(parsed, before)
        for mapping in (parsed.fields, parsed.channelExpiry, box(metadata={"a": "b"}).metadata):
            writable: Any = mapping
            with self.assertRaises(TypeError):
                writable["a"] = 1


KEYS = st.sampled_from(sorted({*fullAccount(), *fullBox(), "links", "drop_fields", "id", "type", "position_digits"}))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=80)
    | st.just(HASH)
    | st.just("a" * 64)
    | st.dates()
    | st.text(st.characters(categories=["Cs"]), max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(max_size=9), inner, max_size=6),
    max_leaves=20,
)


class AnythingTests(SynchronousTestCase):
    """
    Whatever TOML or JSON may give.
    """

    def check(self, parse: Callable[[], Account | Box]) -> Account | Box | None:
        """
        It is a value, or the one error in one printable line.
        """
        try:
            return parse()
        except BadRecord as error:
            self.assertIsInstance(error, DirectoryUnavailable)
            self.assertNotIn("\n", str(error))
            str(error).encode()
        return None

    @given(VALUES, st.booleans())
    def test_anything(self, data: Any, isStrict: bool) -> None:
        """
        Anything at all.
        """
        self.check(lambda: parseAccount(data, isStrict))
        self.check(lambda: parseBox(data, "acme", isStrict))

    @given(st.data(), st.booleans())
    def test_almost(self, data: st.DataObject, isStrict: bool) -> None:
        """
        A good account and a good box, something of which, at any depth, is something else.
        """
        for good, parse in ((fullAccount(), self._account), (fullBox(), self._box)):
            good.pop("box", None)
            place: Any = good
            while True:
                key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
                if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
                    break
                place = place[key]
            place[key] = data.draw(VALUES)
            found = parse(good, isStrict)
            if found is not None:
                self.assertTrue(isName(found.name if isinstance(found, Account) else found.asset))
                self.assertEqual(parse(json.loads(json.dumps(good, default=str)), isStrict), found)

    def _account(self, data: Any, isStrict: bool) -> Account | Box | None:
        return self.check(lambda: parseAccount(data, isStrict))

    def _box(self, data: Any, isStrict: bool) -> Account | Box | None:
        return self.check(lambda: parseBox(data, "acme", isStrict))

    @given(VALUES)
    def test_everyReader(self, value: Any) -> None:
        """
        Each way of reading a value gives its type or the error.
        """
        readers: dict[str, tuple[Callable[[Table], object], tuple[type, ...]]] = {
            "flag": (lambda table: table.flag("k", False), (bool,)),
            "text": (lambda table: table.text("k"), (str,)),
            "name": (lambda table: table.name("k"), (str,)),
            "number": (lambda table: table.number("k", 1e6), (float,)),
            "integer": (lambda table: table.integer("k", -5, 5), (int, type(None))),
            "list": (lambda table: table.list("k", 3), (list, type(None))),
            "texts": (lambda table: table.texts("k", 3, 9, 9), (dict,)),
        }
        for name, (read, kinds) in readers.items():
            try:
                found = readTable({"k": value}, "here", True, read)
            except BadRecord as error:
                self.assertTrue(str(error).startswith("here: k: "), name)
            else:
                self.assertIsInstance(found, kinds)
