"""
Tests for the package as it is installed: C{setup.cfg}, C{pyproject.toml} and C{twisted/plugins/}.
"""

from __future__ import annotations

from tests.environments import TWISTED, EnvironmentTestCase


class InstallationTests(EnvironmentTestCase):
    """
    Installed for real, into a fresh virtual environment.
    """

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

        self.install(self.source, *arguments)
        self.assertEqual(self.commands(), {*commandsBefore, "binaryserver", "binaryserver-shovel"})
        self.checkInstalled()

        self.uninstall("binaryserver")
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
                "file http https open",
                "False",
                "GPS_SPEED",
                "adopt append bury claim draw due erase fingerprints lease list mailbox marks mqtt progress purge put "
                "record refused release remove renew restore take",
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
