"""
What can be checked of the documentation: that it names every option, and only tests that there are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from binaryserver.options import SETTINGS

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
_TEST = re.compile(r"`((?:[\w.]+\.)?test_\w+)`")


class DocsTests(SynchronousTestCase):
    """
    All pages.
    """

    def test_options(self) -> None:
        """
        Every option of the gateway stands in docs/operations.md.
        """
        text = (ROOT / "docs" / "operations.md").read_text("utf-8")
        named = set(re.findall(r"--([a-z0-9-]+)", text))
        self.assertEqual({setting.name for setting in SETTINGS} - named, set())

    def test_links(self) -> None:
        """
        A link to a file of the project leads somewhere.
        """
        for page in [ROOT / "README.md", *DOCS]:
            for target in _LINK.findall(page.read_text("utf-8")):
                if "://" not in target and not target.startswith("mailto:"):
                    self.assertTrue((page.parent / target).exists(), f"{page.name}: {target}")

    def test_tests(self) -> None:
        """
        The tests that docs/security.md names, as proof of what it says, exist.
        """
        names = list(_tests((ROOT / "docs" / "security.md").read_text("utf-8")))
        self.assertGreater(len(names), 50)
        for module, owner, name in names:
            case = getattr(import_module(f"tests.{module}"), owner, None)
            self.assertTrue(hasattr(case, name), f"tests.{module}.{owner}.{name}")


def _tests(text: str) -> Iterator[tuple[str, str, str]]:
    """
    Modules, classes and methods that a page names: C{`module.Class.test_x`}, and behind it C{`test_y`} of the same
    class, or C{`Class.test_z`} of the same module.
    """
    module = owner = ""
    for named in _TEST.findall(text):
        *before, name = named.split(".")
        if before:
            owner = before.pop()
        if before:
            module = ".".join(before)
        yield module, owner, name
