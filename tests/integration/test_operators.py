"""
What operators are told and can do, with C{binaryserver-ctl} on real gateways: why a box is offline, in each case that
there is, and who is disconnected, wherever it is.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from binaryserver.mqtt.events import Will
from binaryserver.mqtt.packets import encodeConnect
from tests.certificates import replaceFile
from tests.directory.samples import toml
from tests.gatewayprocess import ROOT, GatewayProcess, connect
from tests.integration.instances import InstancesTestCase
from tests.integration.test_admission import ADMITTED, FIRST, HASH, NOT_AUTHORIZED, SECOND, SECRET, UNAVAILABLE

WILL = Will("w", b"SIM_ERROR", 0, False)


def ctl(gateway: GatewayProcess, *arguments: str) -> tuple[int, str, str]:
    """
    C{binaryserver-ctl}: its exit status, what it printed, and its errors.
    """
    command = [
        sys.executable,
        "-m",
        "binaryserver.tools.ctl",
        *arguments,
        f"--http=http://127.0.0.1:{gateway.httpPort}",
    ]
    done = subprocess.run(
        command, capture_output=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


class OperatorCase(SynchronousTestCase):
    """
    What the tests share.
    """

    def box(
        self,
        gateway: GatewayProcess,
        asset: str = FIRST,
        answer: bytes = ADMITTED,
        account: str | None = "acme",
        secret: bytes | None = SECRET,
        will: Will | None = None,
        keepAlive: int = 0,
    ) -> socket.socket:
        """
        A link that is answered so.
        """
        link = connect(gateway.port)
        self.addCleanup(link.close)
        link.settimeout(20)
        link.sendall(encodeConnect(asset, True, keepAlive, account, secret, will))
        self.assertEqual(link.recv(4), answer)
        return link

    def told(self, gateway: GatewayProcess, *arguments: str) -> dict[str, Any]:
        """
        What a command prints with C{--json}.
        """
        status, output, errors = ctl(gateway, *arguments, "--json")
        self.assertEqual((status, errors), (0, ""))
        read: dict[str, Any] = json.loads(output)
        return read

    def explainedBy(self, gateway: GatewayProcess, words: str, *arguments: str) -> str:
        """
        Explain, until that is told: what the gateway notes of a link's end takes it a moment.
        """
        deadline = time.monotonic() + 20
        while True:
            status, output, errors = ctl(gateway, "explain", *arguments)
            self.assertEqual((status, errors), (0, ""))
            if words in output or time.monotonic() > deadline:
                self.assertIn(words, output)
                return output
            time.sleep(0.2)


class ExplainTests(OperatorCase):
    """
    C{explain}, on one gateway with a directory in a file.
    """

    def setUp(self) -> None:
        """
        A gateway with an account of two boxes.
        """
        self.file = Path(self.mktemp()).absolute()
        self.write()
        self.gateway = GatewayProcess(f"--directory=file:{self.file}", "--instance=here", "--lease=3")
        self.addCleanup(self.gateway.close)
        self.gateway.start()

    def write(self, *revoked: str, **changes: Any) -> None:
        """
        Change the directory.
        """
        boxes = [{"asset": asset, "secret_hash": HASH, "revoked": asset in revoked} for asset in (FIRST, SECOND)]
        replaceFile(str(self.file), toml([{"name": "acme", "box": boxes, **changes}]).encode())

    def limit(self, account: dict[str, Any] | None = None, **limits: Any) -> None:
        """
        Change the account, its limits among the rest, and wait until the gateway knows.
        """
        self.write(limits=limits, **(account or {}))
        deadline = time.monotonic() + 20
        while not self.told(self.gateway, "explain", FIRST, "--account=acme")["directory"]["max_links"]:
            self.assertLess(time.monotonic(), deadline)

    def explained(self, words: str, *arguments: str) -> str:
        """
        What is printed of the first box once it has these words.
        """
        return self.explainedBy(self.gateway, words, *(arguments or (FIRST,)))

    def test_neverHeardOf(self) -> None:
        """
        Whose box it is has to be said; then the directory's word is told, and that it never tried.
        """
        status, _, errors = ctl(self.gateway, "explain", FIRST)
        self.assertEqual(status, 1)
        self.assertIn(f"404 Not Found: nothing was ever heard of a box {FIRST}: say whose it is", errors)
        output = self.explained("It has never been connected.", FIRST, "--account=acme")
        self.assertIn("Nothing has been heard of it: it has not tried to connect.", output)
        self.assertIn("See whether the box has power and coverage, and the right address of the gateway.", output)

    def test_connected(self) -> None:
        """
        There is nothing to explain.
        """
        self.box(self.gateway)
        output = self.explained("It is connected: by md30 from 127.0.0.1 to here@")
        self.assertTrue(output.startswith(f"acme/{FIRST} is connected.\n"), output)
        self.assertNotIn("What to do", output)

    def test_wrongSecret(self) -> None:
        """
        How often it tried, and what is to be done; in JSON, too.
        """
        for _ in range(3):
            self.box(self.gateway, answer=NOT_AUTHORIZED, secret=b"wrong")
        output = self.explained("refused: 3 times since ")
        self.assertIn("by md30 from 127.0.0.1 to here@", output)
        self.assertIn("because: wrong secret (AUTH_FAILED_ASSET).", output)
        self.assertIn("Give the box the secret or certificate that the directory has for it", output)
        told = self.told(self.gateway, "explain", FIRST)
        self.assertEqual((told["state"], told["directory"]["box"], told["session"]), ("never_connected", "known", None))
        self.assertEqual([(event["kind"], event["times"]) for event in told["events"]], [("refused", 3)])
        self.box(self.gateway)
        self.assertNotIn("refused:", self.explained("It is connected"))

    def test_unknownBox(self) -> None:
        """
        A box that the directory has not got: it is told under which account it came.
        """
        self.box(self.gateway, "no-such-box", NOT_AUTHORIZED)
        output = self.explained("The directory has no box no-such-box of acme.", "no-such-box")
        self.assertIn("because: the account has no such box (AUTH_FAILED_ASSET).", output)
        self.assertIn("Add the box to account acme in the directory, or correct the box's name.", output)

    def test_wrongAccount(self) -> None:
        """
        It gives an account that there is not, or none: that is found by its asset alone, and told with the right one.
        """
        self.box(self.gateway, answer=NOT_AUTHORIZED, account="acne")
        output = self.explained("The directory has no account acne.")
        self.assertIn("Add account acne to the directory, or correct what the box gives.", output)
        output = self.explained("under acne.", FIRST, "--account=acme")
        self.assertIn("Ask for it with that account, too: the box may give the wrong one.", output)
        self.box(self.gateway, SECOND, NOT_AUTHORIZED, None, None)
        output = self.explained("It gives no account", SECOND)
        self.assertIn("Give the box its account as its user name.", output)

    def test_revoked(self) -> None:
        """
        It was there, is sent away, and tries again; when it may come again that is told before it does.
        """
        link = self.box(self.gateway)
        self.write(FIRST)
        self.assertEqual(link.recv(1), b"")
        output = self.explained("The box is revoked: it may not be here.")
        self.assertIn("because it did not prove to be that box, or may not be here (AUTH_FAILED_ASSET: ", output)
        self.box(self.gateway, answer=NOT_AUTHORIZED)
        output = self.explained("because: the box is revoked (AUTH_FAILED_ASSET)")
        self.assertIn("Take its revocation back in the directory, if it is to come in again.", output)
        self.write()
        output = self.explained("The directory has nothing against it now")
        self.assertIn("What to do:\n  Wait for its next attempt.\n", output)

    def test_inactive(self) -> None:
        """
        Its account is not active.
        """
        self.write(active=False)
        deadline = time.monotonic() + 10
        while self.told(self.gateway, "explain", FIRST, "--account=acme")["directory"]["account"] != "inactive":
            self.assertLess(time.monotonic(), deadline)
        self.box(self.gateway, answer=NOT_AUTHORIZED)
        output = self.explained("because: the account is not active (AUTH_FAILED_ACCOUNT)")
        self.assertIn("Its account acme is not active: none of its boxes may be here.", output)
        self.assertIn("Make account acme active in the directory, if it is to be served.", output)

    def test_full(self) -> None:
        """
        As many boxes of its account are connected as may be.
        """
        self.limit(links=1)
        other = self.box(self.gateway, SECOND)
        self.box(self.gateway, answer=UNAVAILABLE)
        output = self.explained("As many boxes of acme are connected as may be: 1 of 1.")
        self.assertIn("because: 1 boxes of acme are connected already (AUTH_FAILED_ACCOUNT).", output)
        self.assertIn("Disconnect others of acme, or raise its limit of links in the directory.", output)
        other.close()
        self.assertNotIn("Disconnect others", self.explained("Look at the account in the directory"))

    def test_noTls(self) -> None:
        """
        Its account requires TLS.
        """
        self.limit({"require_tls": True}, links=5)
        self.box(self.gateway, answer=NOT_AUTHORIZED)
        output = self.explained("because: its account requires TLS (AUTH_FAILED_TRANSPORT).")
        self.assertIn("Have the box connect with TLS", output)

    def test_tooFast(self) -> None:
        """
        Its account's share of arrivals is used up.
        """
        self.limit(links=5, connects_per_second=0.01)
        self.box(self.gateway, SECOND).close()
        self.box(self.gateway, answer=UNAVAILABLE)
        self.explained("because: more than 0.01 arrivals a second of its account (AUTH_FAILED_ACCOUNT).")

    def test_lost(self) -> None:
        """
        Each way a link may end, in the box's words where it left some.
        """
        for will, end, words, code in (
            (None, lambda link: link.close(), "its connection was closed", "(SOCKET_CLOSED)"),
            (None, lambda link: link.sendall(b"\xe0\x00"), "it said goodbye", "(CLIENT_DISCONNECT)"),
            (WILL, lambda link: link.close(), "its SIM card failed", "(SIM_ERROR)"),
        ):
            end(self.box(self.gateway, will=will))
            output = self.explained(code)
            self.assertIn("It is disconnected since ", output)
            self.assertIn(f", because {words} {code}. Its last link was ", output)
            self.assertIn("Nothing has been heard of it since: it has not tried to connect.", output)
        self.assertIn("What to do:\n  Have the SIM card and its contract looked at.\n", output)
        self.assertEqual(len(self.told(self.gateway, "show", FIRST)["events"]), 3)

    def test_silent(self) -> None:
        """
        It did not keep its keep-alive.
        """
        self.box(self.gateway, keepAlive=1)
        self.explained("nothing was heard of it for longer than it had promised (NETWORK_ACTIVITY_TIMEOUT")

    def test_twins(self) -> None:
        """
        Two devices have one name.
        """
        for _ in range(4):
            self.box(self.gateway)
        output = self.explained("Its link was taken over 3 times since ")
        self.assertIn("two devices have this name: give each its own", output)

    def test_restarted(self) -> None:
        """
        The gateway stopped, and stands again: what it noted is there.
        """
        self.box(self.gateway)
        self.assertEqual(self.gateway.terminate(), 0)
        self.gateway.start()
        self.explained("because its gateway stopped (SERVER_SHUTDOWN)")

    def test_killed(self) -> None:
        """
        The instance died: who explains meanwhile says so, and it is told gone by the next one.
        """
        self.box(self.gateway)
        self.gateway.kill9()
        self.gateway.start()
        output = self.explained("is dead: unless the box comes back, it is told gone soon.")
        self.assertIn("Wait half a minute and ask again", output)
        deadline = time.monotonic() + 40
        while self.told(self.gateway, "explain", FIRST)["state"] == "connected":
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.5)
        output = self.explained("because its gateway stopped (SERVER_SHUTDOWN: its instance here@")

    def test_disconnected(self) -> None:
        """
        An operator did it: the link is closed, the cloud is told so, and the next one is let in.
        """
        link = self.box(self.gateway, will=WILL)
        status, output, errors = ctl(self.gateway, "disconnect", FIRST)
        self.assertEqual((status, errors), (0, ""))
        self.assertTrue(output.startswith(f"disconnected acme/{FIRST}: link "), output)
        self.assertEqual(link.recv(1), b"")
        self.explained("because an operator disconnected it (CLOSED_BY_SERVER")
        presences = [event["presence"] for event in self.gateway.tail("presences")]
        self.assertEqual([one["reason"] for one in presences], ["", "CLOSED_BY_SERVER"])
        status, _, errors = ctl(self.gateway, "disconnect", FIRST)
        self.assertEqual(status, 1)
        self.assertIn(f"409 Conflict: box {FIRST} is not connected", errors)
        self.box(self.gateway)

    def test_listAndShow(self) -> None:
        """
        C{boxes} and C{show}, for people and as JSON.
        """
        self.box(self.gateway)
        self.box(self.gateway, SECOND).close()
        self.explained("SOCKET_CLOSED", SECOND)
        status, output, _ = ctl(self.gateway, "boxes")
        head, first, second = output.splitlines()
        self.assertEqual((status, head.split()[:3]), (0, ["ACCOUNT", "ASSET", "STATE"]))
        self.assertEqual(
            (first.split()[:3], second.split()[:3]), (["acme", FIRST, "connected"], ["acme", SECOND, "away"])
        )
        _, output, _ = ctl(self.gateway, "boxes", "--state=disconnected", "--json")
        self.assertEqual([json.loads(line)["asset"] for line in output.splitlines()], [SECOND])
        _, output, _ = ctl(self.gateway, "show", FIRST)
        for words in (
            f"acme/{FIRST}\n",
            "  connected since 20",
            " by md30 from 127.0.0.1",
            "(alive)",
            "not subscribed",
        ):
            self.assertIn(words, output)


class ElsewhereTests(InstancesTestCase, OperatorCase):
    """
    Whichever instance is asked.
    """

    def check(self, asked: GatewayProcess, holder: GatewayProcess) -> None:
        """
        One has the box, another is asked.
        """
        link = self.box(holder)
        told = self.told(asked, "show", FIRST)
        self.assertEqual((told["session"]["connected"], told["instance_alive"]), (True, True))
        done = self.told(asked, "disconnect", FIRST)
        self.assertEqual(done["link_epoch"], told["session"]["link_epoch"])
        self.assertEqual(link.recv(1), b"")
        self.explainedBy(asked, "CLOSED_BY_SERVER", FIRST)

    def test_redis(self) -> None:
        """
        Two instances on one Redis.
        """
        one, two = self.gateway("one"), self.gateway("two")
        self.check(one, two)
        self.check(two, one)
        link = self.box(two)
        two.freeze()
        try:
            status, _, errors = ctl(one, "disconnect", FIRST)
            self.assertEqual(status, 3, errors)
            self.assertIn("does not answer", errors)
        finally:
            two.thaw()
        link.settimeout(20)

    def test_workersOnRedis(self) -> None:
        """
        The parent of workers is asked, and one beside them.
        """
        options = (f"--topic-prefix={self.prefix}", f"--sessions=redis://{self.redis}?prefix={self.prefix}")
        parent = GatewayProcess(*options, "--workers=2", "--instance=many", bus=f"kafka://{self.kafka}")
        self.addCleanup(parent.close)
        parent.start()
        beside = self.gateway("one")
        for _ in range(3):
            self.check(parent, parent)
        self.check(beside, parent)
        self.check(parent, beside)


class WorkersTests(OperatorCase):
    """
    The parent of workers on one SQLite file.
    """

    def test_parent(self) -> None:
        """
        It reaches each of them, through their pipes, and knows the directory's word.
        """
        file = Path(self.mktemp()).absolute()
        boxes = [{"asset": f"box-{number}", "secret_hash": HASH} for number in range(201)]
        replaceFile(str(file), toml([{"name": "acme", "box": boxes}]).encode())
        gateway = GatewayProcess("--workers=2", f"--directory=file:{file}", "--instance=many")
        self.addCleanup(gateway.close)
        gateway.start()
        links: dict[str, socket.socket] = {}
        holders: dict[str, str] = {}
        # The kernel chooses who accepts: with many at once it is not always the same one.
        while set(holders) != {"many-0", "many-1"}:
            self.assertLess(len(links), 200, holders)
            some = [f"box-{number}" for number in range(len(links), len(links) + 40)]
            for asset in some:
                links[asset] = connect(gateway.port)
                self.addCleanup(links[asset].close)
            for asset in some:
                links[asset].sendall(encodeConnect(asset, True, 0, "acme", SECRET))
            for asset in some:
                self.assertEqual(links[asset].recv(4), ADMITTED)
            _, output, _ = ctl(gateway, "boxes", "--json")
            for box in map(json.loads, output.splitlines()):
                holders[box["instance"].partition("@")[0]] = box["asset"]
        for instance, asset in holders.items():
            self.assertEqual(self.told(gateway, "disconnect", asset)["instance"].partition("@")[0], instance)
            self.assertEqual(links[asset].recv(1), b"")
        self.box(gateway, "box-200", NOT_AUTHORIZED, secret=b"wrong")
        output = self.explainedBy(gateway, "because: wrong secret", "box-200")
        self.assertIn("Give the box the secret or certificate that the directory has for it", output)
        self.assertEqual(self.told(gateway, "explain", "box-200")["directory"]["box"], "known")
