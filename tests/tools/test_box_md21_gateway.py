"""
Simulated boxes that speak MD21 on the gateway's own process: what they say was acked is on the bus once.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.certificates import Authority
from tests.gatewayprocess import ROOT, GatewayProcess, boxesEnd, startBoxes, startFleet
from tests.services import freePort

ASSET = "350000000000001"
PAYLOAD = "aW50ZXJ2YWw9MzA="
"""interval=30, in base64."""


class GatewayTests(SynchronousTestCase):
    """
    The gateway itself.
    """

    def gateway(self, *options: str) -> GatewayProcess:
        """
        One that is ready.
        """
        gateway = GatewayProcess(*options)
        self.addCleanup(gateway.close)
        return gateway.start()

    def assertOnceEach(self, gateway: GatewayProcess, boxes: int, tracks: int) -> None:
        """
        Every track is on the bus once.
        """
        gateway.awaitTracks(boxes * tracks)
        events = gateway.tail()
        times = {(event["asset"], event["event_time"]) for event in events}
        self.assertEqual((len(events), len(times)), (boxes * tracks, boxes * tracks))

    def test_losesAcks(self) -> None:
        """
        Boxes that lose each second ack, and cut their links: each track is on the bus once.
        """
        gateway = self.gateway()
        boxes = startFleet(
            [gateway.md21Port],
            *["--protocol=md21", "--boxes=4", "--tracks=200", "--batch=20", "--lose-acks=1/2", "--resend-after=0.5"],
            *["--cut-every=3", "--reconnect-delay=0.2", "--timeout=60", "--account=acme", "--password=x"],
        )
        sums = boxesEnd(boxes)
        self.assertEqual((sums["sent"], sums["acked"], sums["peer_errors"]), (800, 800, 0))
        self.assertGreater(min(sums["resent"], sums["acks_ignored"]), 20)
        self.assertOnceEach(gateway, 4, 200)

    def test_udp(self) -> None:
        """
        Tracks by UDP, of which some get lost.
        """
        gateway = self.gateway(f"--md21-udp={freePort()}:interface=127.0.0.1")
        boxes = startFleet(
            [gateway.md21Port],
            *["--protocol=md21", "--udp", "--boxes=4", "--tracks=100", "--batch=10", "--lose-datagrams=0.1"],
            "--timeout=60",
        )
        sums = boxesEnd(boxes)
        self.assertEqual((sums["acked"], sums["udp_links"], sums["resent"], sums["peer_errors"]), (400, 4, 0, 0))
        self.assertGreater(sums["datagrams_lost"], 0)
        self.assertOnceEach(gateway, 4, 100)

    def test_tls(self) -> None:
        """
        TLS that is asked for.
        """
        authority = Authority()
        folder = self.mktemp()
        os.makedirs(folder)
        certificate, key = (os.path.abspath(path) for path in authority.issueServer().write(folder, "server"))
        ca = os.path.join(folder, "ca.pem")
        with open(ca, "wb") as file:
            file.write(authority.certificatePem())
        gateway = self.gateway(f"--md21-cert={certificate}", f"--md21-key={key}", "--md21-require-tls")
        options = ["--protocol=md21", "--tracks=30", "--batch=20", "--account=acme", "--password=x"]
        sums = boxesEnd(startBoxes(gateway.md21Port, *options, "--tls", f"--ca={ca}"))
        self.assertEqual((sums["acked"], sums["connects"], sums["lost_links"]), (30, 1, 0))
        self.assertOnceEach(gateway, 1, 30)
        plain = startBoxes(gateway.md21Port, *options)
        output, _ = plain.communicate(timeout=60)
        self.assertEqual((plain.returncode, json.loads(output)["refused"]), (1, 1))

    def test_messages(self) -> None:
        """
        A message of the cloud's reaches the box, which answers; the sender learns of it.
        """
        gateway = self.gateway()
        for answer, status, final in (("ok", 0, "ACKED"), ("not-understood", 1, "NOT_UNDERSTOOD")):
            output = Path(self.mktemp())
            with output.open("wb") as file:
                box = startFleet(
                    [gateway.md21Port],
                    *["--protocol=md21", "--tracks=1", "--stay", "--account=acme", "--password=x", f"--ack={answer}"],
                    output=file,
                )
            self.addCleanup(box.kill)
            program = "import sys; from binaryserver.tools.ctl import main; sys.exit(main())"
            url = f"http://127.0.0.1:{gateway.httpPort}"
            message = [ASSET, "config", "interval=30", "--want-ack", "--wait"]
            gateway.awaitTracks(1)
            sent = subprocess.run(
                [sys.executable, "-c", program, "send", f"--http={url}", "--json", "--timeout=30", *message],
                capture_output=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                timeout=60,
                check=False,
            )
            self.assertEqual((sent.returncode, sent.stderr), (status, b""))
            self.assertIn(final, str(sent.stdout.splitlines()[-1]))
            box.send_signal(signal.SIGTERM)
            self.assertEqual(box.wait(15), 0)
            received, sums = map(json.loads, output.read_text().splitlines())
            self.assertEqual((received["asset"], received["channel"], received["payload"]), (ASSET, "config", PAYLOAD))
            self.assertEqual((sums["messages"]["received"], sums["messages"]["acks_sent"]), (1, 1))

    def test_otherProtocol(self) -> None:
        """
        A box that keeps its state goes from one protocol to the other and back, with the tracks that it has not got rid
        of: none of one protocol's is lost or brought twice.
        """
        gateway = self.gateway()
        state = os.path.abspath(self.mktemp())
        common = [f"--state={state}", "--boxes=2", "--tracks=60", "--batch=20", "--account=acme", "--password=x"]
        unacked = startBoxes(gateway.port, *common, "--rate=0.001", "--timeout=1")
        unacked.communicate(timeout=60)
        for number, (port, protocol) in enumerate(
            ((gateway.md21Port, "md21"), (gateway.port, "md30"), (gateway.md21Port, "md21")), 2
        ):
            sums = boxesEnd(startBoxes(port, *common, f"--protocol={protocol}"))
            self.assertEqual((sums["acked"], sums["resent"]), (120 if number > 2 else 240, 0))
            self.assertOnceEach(gateway, 2, 60 * number)
