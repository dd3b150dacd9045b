"""
Tests for L{binaryserver.directory}.
"""

from __future__ import annotations

import tomllib

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from binaryserver.directory.fields import FIELD_TYPES, packagedFields, parseFields
from binaryserver.directory.opendirectory import OpenDirectory
from binaryserver.errors import ConfigError
from binaryserver.interfaces import IDirectoryPlugin, IDirectorySource
from binaryserver.plugins import BackEndContext, createBackEnd


def entry(number: str = "8", name: str = "GPS_SPEED", kind: str = "int") -> str:
    """
    One field of a dictionary, as TOML.
    """
    return f'[[field]]\nid = {number}\nname = "{name}"\ntype = "{kind}"\nunit = "for people"\n'


class FieldsTests(SynchronousTestCase):
    """
    The field dictionary.
    """

    def test_packaged(self) -> None:
        """
        The packaged one names the fields that boxes send, with types that a value can have.
        """
        fields = packagedFields()
        self.assertEqual(fields[8], ("GPS_SPEED", "int"))
        self.assertEqual(fields[14], ("DIO_IGNITION", "bool"))
        self.assertEqual(fields[250], ("MDI_RECORD_REASON", "string"))
        self.assertLessEqual({kind for _, kind in fields.values()}, FIELD_TYPES)
        self.assertEqual(len({name for name, _ in fields.values()}), len(fields))

    def test_parse(self) -> None:
        """
        Number, name and type are read; what is for people is passed over.
        """
        self.assertEqual(
            parseFields(entry() + entry("9", "GPS_DIR", "double")), {8: ("GPS_SPEED", "int"), 9: ("GPS_DIR", "double")}
        )

    def test_refused(self) -> None:
        """
        A dictionary that would mislabel fields is refused, with the reason.
        """
        for text, reason in {
            "": "list of",
            "field = 3": "list of",
            "field = [3]": "needs id",
            entry("0"): "above 0",
            entry('"8"'): "needs id",
            entry(name=""): "needs id",
            entry().replace("name", "title"): "needs id",
            entry(kind="float"): "unknown type",
            entry() + entry(name="OTHER"): "twice",
            entry() + entry("9"): "twice",
        }.items():
            self.assertIn(reason, str(self.assertRaises(ValueError, parseFields, text)), text)

    def test_notToml(self) -> None:
        """
        What is no TOML is a C{ValueError} too.
        """
        self.assertTrue(issubclass(tomllib.TOMLDecodeError, ValueError))
        self.assertRaises(ValueError, parseFields, "[[field")


class OpenDirectoryTests(SynchronousTestCase):
    """
    C{open:}.
    """

    def setUp(self) -> None:
        self.context = BackEndContext(MemoryReactorClock(), "--directory")
        self.directory: OpenDirectory = createBackEnd(IDirectoryPlugin, "open:", self.context)

    def test_interface(self) -> None:
        """
        It is a directory, and for loopback only.
        """
        verifyObject(IDirectorySource, self.directory)
        self.assertTrue(self.directory.requiresLoopback)

    def test_takesNoValue(self) -> None:
        """
        A value that would be passed over is refused, in the option's name.
        """
        error = self.assertRaises(ConfigError, OpenDirectory, "open:accounts.toml", self.context)
        self.assertIn("--directory", str(error))

    def admitted(self, account: str, password: bytes | None = None) -> str | None:
        """
        The account that a box comes into.
        """
        return self.successResultOf(self.directory.admit(account, "box", password, False))

    def test_anybody(self) -> None:
        """
        The user name is the account, with any password; C{dev} where there is none.
        """
        self.assertEqual(self.admitted("acme"), "acme")
        self.assertEqual(self.admitted("acme", b"wrong"), "acme")
        self.assertEqual(self.admitted("A-z_0.9"), "A-z_0.9")
        self.assertEqual(self.admitted("x" * 64), "x" * 64)
        self.assertEqual(self.admitted(""), "dev")

    def test_refused(self) -> None:
        """
        An account that would break keys on the bus is refused.
        """
        for account in ("a/b", "a b", "x" * 65, "é", "a\n", "\0", "*"):
            self.assertIsNone(self.admitted(account), account)

    def test_fields(self) -> None:
        """
        Once started it knows the packaged fields, for every account; what it does not know is C{None}.
        """
        self.successResultOf(self.directory.start())
        self.assertEqual(self.directory.fieldName("acme", 8), ("GPS_SPEED", "int"))
        self.assertEqual(self.directory.fieldName("other", 8), ("GPS_SPEED", "int"))
        self.assertIsNone(self.directory.fieldName("acme", 4999))
        self.successResultOf(self.directory.stop())
