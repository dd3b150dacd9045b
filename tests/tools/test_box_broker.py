"""
The simulated boxes as a process, against a broker that nobody here wrote: mosquitto.
"""

from __future__ import annotations

import getpass
import json
import os
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IProcessTransport
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol
from twisted.internet.task import deferLater
from twisted.internet.utils import getProcessOutputAndValue
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from tests.certificates import Authority
from tests.services import freePort, requireProgram

PROJECT = Path(__file__).parents[2]


class Broker(ProcessProtocol):
    """
    A mosquitto of a test's own.
    """

    transport: IProcessTransport

    def __init__(self) -> None:
        self.ended: Deferred[None] = Deferred()
        self.said = b""

    def outReceived(self, data: bytes) -> None:
        """
        Keep what it says, for when it fails.
        """
        self.said += data

    errReceived = outReceived

    def processEnded(self, reason: Failure) -> None:
        """
        See L{ProcessProtocol.processEnded}.
        """
        self.ended.callback(None)

    def stop(self) -> Deferred[None]:
        """
        End it.
        """
        if not self.ended.called:
            self.transport.signalProcess("KILL")
        return self.ended


class BrokerCase(TestCase):
    """
    A broker, and boxes on it.
    """

    timeout = 60
    listener = "user {user}\nlistener {port} 127.0.0.1\nallow_anonymous true\n"

    @inlineCallbacks
    def setUp(self) -> Any:  # type: ignore[override]  # trial waits for the Deferred
        """
        Start the broker, and wait until it listens.
        """
        program = requireProgram("mosquitto", "mosquitto")
        self.port = freePort()
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.prepare()
        config = self.folder / "mosquitto.conf"
        config.write_text(self.listener.format(port=self.port, folder=self.folder, user=getpass.getuser()))
        self.broker = Broker()
        reactor.spawnProcess(self.broker, program, [program, "-c", str(config)], env=os.environ)
        self.addCleanup(self.broker.stop)
        for _ in range(100):
            try:
                probe = yield TCP4ClientEndpoint(reactor, "127.0.0.1", self.port).connect(Factory.forProtocol(Protocol))
            except ConnectError:
                yield deferLater(reactor, 0.05)
            else:
                probe.transport.abortConnection()
                return
        self.fail(f"mosquitto does not listen: {self.broker.said!r}")

    def prepare(self) -> None:
        """
        Make what the listener names.
        """

    @inlineCallbacks
    def boxes(self, *arguments: str) -> Any:
        """
        Run the program.

        @return: fires with exit status, the sums, and what it said on standard error
        """
        call = "from binaryserver.tools.box import main; main()"
        out, err, code = yield getProcessOutputAndValue(
            sys.executable,
            ["-c", call, "--json", "--timeout", "30", *arguments],
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
        )
        try:
            return code, json.loads(out), err.decode()
        except ValueError:
            self.fail(f"no sums: {out!r} {err!r}")


class PlainTests(BrokerCase):
    """
    Over plain TCP.
    """

    @inlineCallbacks
    def test_qos(self) -> Any:
        """
        At QoS 1 and 2, in protobuf and in JSON, everything is acked.
        """
        for more in (["--qos", "1", "--batch", "7"], ["--qos", "2"], ["--json-topic", "--resend", "new"]):
            connect = ["--connect", f"tcp:127.0.0.1:{self.port}", "--boxes", "5", "--tracks", "100", "--ramp", "0"]
            code, sums, said = yield self.boxes(*connect, *more)
            self.assertEqual((code, sums["acked"], sums["pubacked"], sums["sent"], said), (0, 500, 500, 500, ""))
            self.assertEqual((sums["unexpected_acks"], sums["acks_out_of_order"], sums["peer_errors"]), (0, 0, 0))

    @inlineCallbacks
    def test_badNetwork(self) -> Any:
        """
        Cuts and lost acks cost resends, at QoS 1 and 2, and no tracks.
        """
        for qos in "12":
            connect = ["--connect", f"tcp:127.0.0.1:{self.port}", "--boxes", "8", "--tracks", "60", "--qos", qos]
            bad = ["--rate", "40", "--cut-every", "0.5", "--reconnect-delay", "0.1"]
            lost = ["--lose-acks", "0.1", "--resend-after", "0.3", "--seed", "4"]
            code, sums, _ = yield self.boxes(*connect, *bad, *lost)
            self.assertEqual((code, sums["acked"], sums["sent"]), (0, 480, 480))
            self.assertGreater(sums["cuts"], 0)
            self.assertGreater(sums["acks_ignored"], 0)
            self.assertGreaterEqual(sums["resent"], sums["acks_ignored"])
            self.assertEqual((sums["unexpected_acks"], sums["peer_errors"]), (0, 0))

    @inlineCallbacks
    def test_gone(self) -> Any:
        """
        A broker that is away ends in status 1 after the timeout, with a line that says why.
        """
        yield self.broker.stop()
        code, sums, said = yield self.boxes("--connect", f"tcp:127.0.0.1:{self.port}", "--timeout", "1")
        self.assertEqual((code, sums["acked"], sums["connects"]), (1, 0, 0))
        self.assertRegex(said, r"^binaryserver-box: 350000000000001: cannot connect: .*refused.*\n$")


class TlsTests(BrokerCase):
    """
    Over TLS with client certificates, whose CN is the asset.
    """

    listener = (
        "user {user}\nlistener {port} 127.0.0.1\nallow_anonymous false\n"
        "require_certificate true\nuse_identity_as_username true\n"
        "cafile {folder}/root.pem\ncertfile {folder}/server.pem\nkeyfile {folder}/server.key\n"
    )

    def prepare(self) -> None:
        """
        Certificates of broker and boxes; the boxes' are signed by an intermediate authority.
        """
        root = Authority()
        (self.folder / "root.pem").write_bytes(root.certificatePem())
        root.issueServer().write(str(self.folder), "server")
        root.issueClient("350000000000001", "acme").write(str(self.folder), "direct")
        between = Authority("Fleet", root)
        for asset in ("box-1", "box-2"):
            issued = between.issueClient(asset, "acme")
            issued.write(str(self.folder), asset)
            (self.folder / f"{asset}-all.pem").write_bytes(issued.certificatePem() + issued.keyPem())

    @inlineCallbacks
    def test_certificates(self) -> Any:
        """
        Each box shows its own certificate with its intermediate, the key beside it or in the same file.
        """
        who = ["--connect", f"tls:127.0.0.1:{self.port}", "--boxes", "2", "--first-asset", "box-1"]
        for more in (
            ["--cert", f"{self.folder}/{{asset}}.pem", "--key", f"{self.folder}/{{asset}}.key"],
            ["--cert", f"{self.folder}/{{asset}}-all.pem"],
        ):
            code, sums, said = yield self.boxes(*who, "--ca", f"{self.folder}/root.pem", *more)
            self.assertEqual((code, sums["acked"], said), (0, 20, ""))
        # The broker says whom it saw.
        self.assertIn(b"as box-1", self.broker.said)
        self.assertIn(b"u'box-2'", self.broker.said)

    @inlineCallbacks
    def test_endpointString(self) -> Any:
        """
        Twisted's own endpoint string does the same.
        """
        trusted = self.folder / "trusted"
        trusted.mkdir()
        (self.folder / "root.pem").rename(trusted / "root.pem")
        box = f"certificate={self.folder}/direct.pem:privateKey={self.folder}/direct.key:trustRoots={trusted}"
        code, sums, said = yield self.boxes("--connect", f"tls:127.0.0.1:{self.port}:{box}")
        self.assertEqual((code, sums["acked"], said), (0, 10, ""))

    @inlineCallbacks
    def test_untrusted(self) -> Any:
        """
        A broker that cannot prove who it is gets nothing, and the box says why.
        """
        code, sums, said = yield self.boxes(
            "--connect", f"tls:127.0.0.1:{self.port}", "--cert", f"{self.folder}/box-1-all.pem", "--timeout", "1"
        )
        self.assertEqual((code, sums["connects"], sums["sent"]), (1, 0, 0))
        self.assertIn("certificate verify failed", said)
