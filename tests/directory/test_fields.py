"""
Tests for L{binaryserver.directory.fields}.
"""

from __future__ import annotations

import tomllib

from twisted.trial.unittest import SynchronousTestCase

from binaryserver.directory.fields import FIELD_TYPES, packagedFields, parseFields


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
        self.assertEqual(parseFields(entry(str(2**32 - 1))), {2**32 - 1: ("GPS_SPEED", "int")})

    def test_refused(self) -> None:
        """
        A dictionary that would mislabel fields is refused, with the reason.
        """
        for text, reason in {
            "": "list of",
            "field = 3": "list of",
            "field = [3]": "needs id",
            entry("0"): "above 0",
            entry(str(2**32)): "needs id",
            entry("true"): "needs id",
            entry('"8"'): "needs id",
            entry(name=""): "needs id",
            entry(name="a\\u0007"): "printable",
            entry(name="x" * 65): "1 to 64",
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
