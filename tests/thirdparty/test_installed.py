"""
Tests for the example as it is installed: beside the gateway, in a virtual environment of their own, and used by it.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

from argon2 import PasswordHasher
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from tests.environments import TWISTED, EnvironmentTestCase
from tests.gatewayprocess import GatewayProcess

EXAMPLE = Path(__file__).resolve().parent / "fleetplugins"
ASSET = "350000000000001"
SECRET = "a secret of the box's"
_PATIENCE = 15.0


class InstalledGateway(GatewayProcess):
    """
    That of a virtual environment. The checkout is not on its path.
    """

    def __init__(self, python: str, directory: str) -> None:
        GatewayProcess.__init__(self, f"--directory={directory}")
        self._python = python

    def command(self) -> list[str]:
        """
        See L{GatewayProcess.command}.
        """
        command = GatewayProcess.command(self)
        return [self._python, "-I", "-c", TWISTED, *command[command.index("-n") :]]


class PahoBox:
    """
    A box by paho-mqtt.

    @ivar isConnected: set while it is
    @ivar isRefused: set once it was
    @ivar isCutOff: set once its link is gone
    """

    def __init__(self, port: int, asset: str, secret: str) -> None:
        self.isConnected = threading.Event()
        self.isRefused = threading.Event()
        self.isCutOff = threading.Event()
        self.client = Client(CallbackAPIVersion.VERSION2, client_id=asset, reconnect_on_failure=False)
        self.client.username_pw_set("acme", secret)
        self.client.on_connect = self._connected
        self.client.on_disconnect = self._disconnected
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def _connected(self, client: Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        (self.isRefused if reason.is_failure else self.isConnected).set()

    def _disconnected(self, *arguments: Any) -> None:
        self.isCutOff.set()

    def close(self) -> None:
        """
        Let it go.
        """
        self.client.disconnect()
        self.client.loop_stop()


class InstalledTests(EnvironmentTestCase):
    """
    The gateway with its guest.
    """

    def setUp(self) -> None:
        """
        A file of accounts with one box, and a copy of the example.
        """
        EnvironmentTestCase.setUp(self)
        self.example = self.copy(EXAMPLE, "fleetplugins", ("fleetplugins", "twisted", "pyproject.toml", "README.md"))
        self.accounts = self.folder / "accounts.csv"
        self.secretHash = PasswordHasher(1, 1024, 1).hash(SECRET)
        self.write("false")

    def write(self, revoked: str) -> None:
        """
        Write the file of accounts.
        """
        lines = f'account,asset,secret_hash,revoked\nacme,,,\nacme,{ASSET},"{self.secretHash}",{revoked}\n'
        self.accounts.write_text(lines)

    def startGateway(self, directory: str) -> InstalledGateway:
        """
        A gateway that ends with the test.
        """
        gateway = InstalledGateway(self.python, directory)
        self.addCleanup(gateway.close)
        gateway.start()
        return gateway

    def box(self, gateway: GatewayProcess, asset: str, secret: str) -> PahoBox:
        """
        A box that goes with the test.
        """
        box = PahoBox(gateway.port, asset, secret)
        self.addCleanup(box.close)
        return box

    def tail(self, gateway: GatewayProcess) -> list[dict[str, Any]]:
        """
        The tracks that arrived, by the installed C{binaryserver-ctl}.
        """
        program = str(self.environment / "bin" / "binaryserver-ctl")
        options = [f"--http=http://127.0.0.1:{gateway.httpPort}", "--topic=tracks", "--from-start"]
        return [
            json.loads(line) for line in self.execute([program, "tail", *options, "--no-follow", "--json"]).splitlines()
        ]

    def check(self, *options: str) -> None:
        """
        Install both, have a box's CSV taken, refuse another, cut the first off; and go on without the example.
        """
        self.install(self.source, *options)
        self.install(self.example, *options)
        with_ = self.startGateway(f"csv:{self.accounts}")
        box = self.box(with_, ASSET, SECRET)
        self.assertTrue(box.isConnected.wait(_PATIENCE), with_.log())
        for asset, secret in ((ASSET[:-1] + "2", SECRET), (ASSET, "not that"), (ASSET, "")):
            self.assertTrue(self.box(with_, asset, secret).isRefused.wait(_PATIENCE), with_.log())

        now = int(time.time() * 1000)
        payload = f"7,1\n{now - 1000},48.8566,2.3522,235=52\n{now},,,235=53\n"
        for topic in ("tc", f"boxes/{ASSET}/tracks/csv"):
            published = box.client.publish(topic, payload, 1)
            published.wait_for_publish(_PATIENCE)
            self.assertTrue(published.is_published(), with_.log())
        events = self.tail(with_)
        self.assertEqual(
            [(event["account"], event["asset"], event["index"]) for event in events],
            [("acme", ASSET, "1"), ("acme", ASSET, "2")],
        )
        self.assertEqual(events[0]["track"]["latitude"], 488_566_000)
        self.assertNotIn("latitude", events[1]["track"])

        self.write("true")
        self.assertTrue(box.isCutOff.wait(_PATIENCE), with_.log())
        self.assertEqual(with_.terminate(), 0)

        self.uninstall("fleetplugins")
        refused = self.execute(InstalledGateway(self.python, f"csv:{self.accounts}").command(), 1)
        self.assertIn("--directory: ", refused)
        self.assertIn("names no back end; known: file, http, https, open", refused)
        without = self.startGateway("open:")
        self.assertTrue(self.box(without, ASSET, "").isConnected.wait(_PATIENCE), without.log())
        self.assertEqual(without.terminate(), 0)

    def test_install(self) -> None:
        """
        Installed as any package.
        """
        self.check()

    def test_editable(self) -> None:
        """
        Installed in place, as their authors have them.
        """
        self.check("--editable")
