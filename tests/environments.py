"""
Virtual environments for the tests of installed packages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

ROOT = Path(__file__).resolve().parent.parent
SITE = Path(sysconfig.get_path("purelib"))
TWISTED = "import sys; sys.argv[0] = 'twistd'; from twisted.scripts.twistd import run; run()"
"""C{twistd}, by whatever interpreter runs it: the script in C{bin} belongs to one."""
SECONDS = 120
_PARTS = ("binaryserver", "twisted", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")


class EnvironmentTestCase(SynchronousTestCase):
    """
    A fresh virtual environment that has a Twisted of its own. The other dependencies are those of the environment that
    runs the tests, so that no network is needed.

    @ivar folder: for this test's files
    @ivar source: a copy of the project, to install from
    @ivar environment: the virtual environment's folder
    @ivar python: its interpreter
    @ivar site: its site-packages
    """

    def setUp(self) -> None:
        """
        Make the environment; nothing of the project is installed.
        """
        for name in ("pip", "setuptools"):
            if find_spec(name) is None:
                raise SkipTest(f"{name} is missing: make test installs it")
        self.folder = Path(self.mktemp()).resolve()
        self.folder.mkdir(parents=True)
        self.source = self.copy(ROOT, "source", _PARTS)
        self.environment = self.folder / "venv"
        self.execute([sys.executable, "-m", "venv", "--without-pip", str(self.environment)])
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.site = self.environment / "lib" / version / "site-packages"
        self.python = str(self.environment / "bin" / "python")
        self._lendPackages()

    def copy(self, source: Path, name: str, parts: Sequence[str]) -> Path:
        """
        Copy a project: installing writes build/ and *.egg-info into its folder.

        @param name: of the copy's folder
        @param parts: files and folders of the project
        """
        copied = self.folder / name
        copied.mkdir()
        for part in parts:
            if (source / part).is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "dropin.cache")
                shutil.copytree(source / part, copied / part, ignore=ignored)
            else:
                shutil.copy(source / part, copied)
        return copied

    def _lendPackages(self) -> None:
        """
        Copy Twisted; make everything else importable, but not this project, however it is installed here.
        """
        lent = self.folder / "lent"
        lent.mkdir()
        for entry in SITE.iterdir():
            name = entry.name.lower()
            if name.startswith(("binaryserver", "__editable__", "__pycache__")) or name.endswith((".pth", ".egg-link")):
                continue
            if name == "twisted":
                shutil.copytree(entry, self.site / entry.name, ignore=shutil.ignore_patterns("test", "dropin.cache"))
            elif name.startswith("twisted-"):
                shutil.copytree(entry, self.site / entry.name)
            else:
                (lent / entry.name).symlink_to(entry)
        # What a released gateway left in twisted/plugins of this environment is not Twisted's.
        for path in (self.site / "twisted" / "plugins").glob("binaryserver_*"):
            path.unlink()
        (self.site / "lent.pth").write_text(f"{lent}\n")

    def execute(self, command: Sequence[str], status: int = 0) -> str:
        """
        Run a program from a folder in which there is nothing of the project.

        @param status: the exit status that it is to have
        @return: what it printed
        """
        place = self.folder / "elsewhere"
        place.mkdir(exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_"))}
        ended = subprocess.run(
            command,
            cwd=place,
            env={**environment, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        self.assertEqual(ended.returncode, status, ended.stdout)
        return ended.stdout

    def pip(self, *arguments: str) -> str:
        """
        The environment's own pip.
        """
        return self.execute([self.python, "-m", "pip", *arguments])

    def install(self, source: Path, *options: str) -> None:
        """
        Install a project from its folder.
        """
        self.pip("install", "--quiet", "--no-deps", "--no-build-isolation", *options, str(source))

    def uninstall(self, name: str) -> None:
        """
        And the other way round.
        """
        self.pip("uninstall", "--quiet", "--yes", name)
