"""
Tests for the package as it is installed: C{setup.cfg}, C{pyproject.toml} and C{twisted/plugins/}.
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


class InstallationTests(SynchronousTestCase):
    """
    Installed for real, into a fresh virtual environment that has a Twisted of its own. The other dependencies are those
    of the environment that runs the tests, so that no network is needed.
    """

    def setUp(self) -> None:
        for name in ("pip", "setuptools"):
            if find_spec(name) is None:
                raise SkipTest(f"{name} is missing: make test installs it")
        self.folder = Path(self.mktemp()).resolve()
        self.folder.mkdir(parents=True)
        # Installing writes build/ and *.egg-info into the source.
        self.source = self.folder / "source"
        self.source.mkdir()
        for name in ("binaryserver", "twisted"):
            shutil.copytree(
                ROOT / name, self.source / name, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache")
            )
        for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, self.source)
        self.environment = self.folder / "venv"
        self.execute([sys.executable, "-m", "venv", "--without-pip", str(self.environment)])
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.site = self.environment / "lib" / version / "site-packages"
        self.python = str(self.environment / "bin" / "python")
        self._lendPackages()

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

    def execute(self, command: Sequence[str]) -> str:
        """
        Run a program from a folder in which there is nothing of the project.

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
        self.assertEqual(ended.returncode, 0, ended.stdout)
        return ended.stdout

    def pip(self, *arguments: str) -> str:
        """
        The environment's own pip.
        """
        return self.execute([self.python, "-m", "pip", *arguments])

    def commands(self) -> set[str]:
        """
        The services that C{twistd --help} lists.
        """
        _, _, listed = self.execute([self.python, "-c", TWISTED, "--help"]).partition("Commands:\n")
        return {line.split()[0] for line in listed.splitlines() if line.startswith("    ") and line[4:5].strip()}

    def twistedFiles(self) -> set[str]:
        """
        What belongs to Twisted, caches aside.
        """
        paths = (path.relative_to(self.site) for path in (self.site / "twisted").rglob("*") if path.is_file())
        return {str(path) for path in paths if "__pycache__" not in path.parts and path.name != "dropin.cache"}

    def checkInstallation(self, *arguments: str) -> None:
        """
        Install, see C{binaryserver} listed beside Twisted's own; uninstall, see everything as before.
        """
        filesBefore, commandsBefore = self.twistedFiles(), self.commands()
        self.assertNotIn("binaryserver", commandsBefore)
        self.assertIn("web", commandsBefore)

        self.pip("install", "--quiet", "--no-deps", "--no-build-isolation", *arguments, str(self.source))
        self.assertEqual(self.commands(), {*commandsBefore, "binaryserver", "binaryserver-shovel"})
        self.checkInstalled()

        self.pip("uninstall", "--quiet", "--yes", "binaryserver")
        self.assertEqual(self.twistedFiles(), filesBefore)
        self.assertEqual(self.commands(), commandsBefore)

    def checkInstalled(self) -> None:
        """
        Plugins, packaged data and scripts work; nothing heavy was imported to list them.
        """
        found = self.execute(
            [
                self.python,
                "-c",
                "import sys\n"
                "from binaryserver.interfaces import IBusPlugin, IDirectoryPlugin, ISessionStorePlugin\n"
                "from binaryserver.plugins import backEnds\n"
                "for kind in (IBusPlugin, ISessionStorePlugin, IDirectoryPlugin):\n"
                "    print(*sorted(backEnds(kind)))\n"
                "print('confluent_kafka' in sys.modules or 'twisted.internet.reactor' in sys.modules)\n"
                "from binaryserver.directory.fields import packagedFields\n"
                "print(packagedFields()[8][0])\n"
                "from binaryserver.session.redisscripts import loadScripts\n"
                "print(*sorted(loadScripts()))\n",
            ]
        )
        self.assertEqual(
            found.splitlines(),
            [
                "kafka memory pykafka sqlite",
                "memory redis rediss sqlite",
                "open",
                "False",
                "GPS_SPEED",
                "adopt append bury claim due fingerprints lease mailbox marks mqtt progress put "
                "release remove renew restore take",
            ],
        )
        for script in ("binaryserver-ctl", "binaryserver-box"):
            self.assertIn("usage: " + script, self.execute([str(self.environment / "bin" / script), "--help"]))

    def test_install(self) -> None:
        """
        C{pip install .} adds the gateway to C{twistd}, and its uninstallation leaves Twisted as it was.
        """
        self.checkInstallation()

    def test_editable(self) -> None:
        """
        C{pip install -e .} does the same.
        """
        self.checkInstallation("--editable")
