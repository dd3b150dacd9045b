"""
Tests for L{binaryserver.tools.box}: the command line, what it prints, and its exit status.
"""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.errors import ConfigError
from binaryserver.tools.box import run
from binaryserver.tools.box_inbox import AckChoice
from binaryserver.tools.box_options import DEFAULT_ASSET, countAssets, parser, planFrom
from binaryserver.tools.box_payload import PayloadForm
from binaryserver.tools.box_plan import BoxPlan, Resend
from binaryserver.tools.box_sums import AckTimes
from tests.tools.box_gateway import MemoryReactor

KEYS = {
    "boxes",
    "tracks",
    "sent",
    "acked",
    "resent",
    "dropped_by_index",
    "connects",
    "seconds",
    "tracks_per_second",
    "ack_ms",
}


class AssetTests(SynchronousTestCase):
    """
    How assets are counted.
    """

    def test_counting(self) -> None:
        """
        The digits at the end count up and keep their width, as long as they have room in it.
        """
        for first, last in (
            (DEFAULT_ASSET, "350000000000003"),
            ("box-001", "box-003"),
            ("box-098", "box-100"),
            ("a1b2-9", "a1b2-11"),
            ("0007", "0009"),
            ("999", "1001"),
        ):
            assets = countAssets(first, 3)
            self.assertEqual((assets[0], assets[2], len(set(assets))), (first, last, 3))

    def test_one(self) -> None:
        """
        A single box needs no digits.
        """
        self.assertEqual(countAssets("my.box", 1), ["my.box"])

    def test_bad(self) -> None:
        """
        What cannot be counted, or is no asset id, names the option.
        """
        for first, count in (
            ("box", 2),
            ("", 1),
            ("a b1", 1),
            ("x" * 65, 1),
            ("x" * 63 + "9", 2),
            ("ü1", 1),
            ("\u0661", 1),
        ):
            error = self.assertRaises(ConfigError, countAssets, first, count)
            self.assertEqual(error.option, "--first-asset")


class PlanTests(SynchronousTestCase):
    """
    What options make of boxes.
    """

    def plan(self, *arguments: str) -> BoxPlan:
        """
        The plan of a command line.
        """
        return planFrom(parser().parse_args(arguments))

    def test_default(self) -> None:
        """
        Without options a box behaves as a plan's defaults say.
        """
        self.assertEqual(self.plan(), BoxPlan())

    def test_all(self) -> None:
        """
        Every option of behaviour arrives.
        """
        text = (
            "--account acme --password secret --batch 5 --rate 0.5 --inflight 7 --qos 2 --json-topic --keep-alive 9 "
            "--no-index --cut-every 30 --lose-acks 0.1 --resend new --resend-after 8 --reconnect-delay 2 "
            "--ack not-understood --cut-on-message 0.2 --stay 60"
        )
        self.assertEqual(
            self.plan(*text.split()),
            BoxPlan(
                account="acme",
                password=b"secret",
                batch=5,
                rate=0.5,
                inflight=7,
                qos=2,
                form=PayloadForm.JSON,
                keepAlive=9,
                indexFromGateway=False,
                cutEvery=30.0,
                loseAcks=0.1,
                resend=Resend.NEW,
                resendAfter=8.0,
                reconnectDelay=2.0,
                ack=AckChoice.NOT_UNDERSTOOD,
                cutOnMessage=0.2,
                stay=60.0,
            ),
        )

    def test_stay(self) -> None:
        """
        Without a time boxes stay until they are told to leave; without messages they have no application.
        """
        self.assertEqual(self.plan("--stay", "--no-messages"), BoxPlan(stay=float("inf"), ack=None))

    def test_patience(self) -> None:
        """
        Where nothing else would bring a lost PUBLISH again, there is a time after which the box does something.
        """
        for text, ackTimeout, resendAfter in (
            ("--cut-every 1", None, None),
            ("--ack-timeout 3", 3.0, None),
            ("--lose-acks 0.5", 5.0, None),
            ("--lose-acks 0.5 --ack-timeout 3", 3.0, None),
            ("--lose-acks 0.5 --resend-after 3", None, 3.0),
            ("--qos 0", None, 5.0),
            ("--qos 0 --resend-after 3", None, 3.0),
        ):
            plan = self.plan(*text.split())
            self.assertEqual((plan.ackTimeout, plan.resendAfter), (ackTimeout, resendAfter), text)

    def test_together(self) -> None:
        """
        Options that do not go together are refused.
        """
        for text in (
            "--password x",
            "--qos 0 --no-index",
            "--qos 0 --lose-acks 0.1",
            "--qos 0 --ack-timeout 1",
            "--ack-timeout 1 --resend-after 1",
        ):
            self.assertRaises(ConfigError, self.plan, *text.split())


class AckTimesTests(SynchronousTestCase):
    """
    Quantiles.
    """

    @given(st.lists(st.floats(1e-5, 1e4), min_size=1), st.floats(0.01, 1))
    def test_quantile(self, times: list[float], share: float) -> None:
        """
        They are right to a little more than one in a hundred.
        """
        counted = AckTimes()
        for time in times:
            counted.note(time)
        exact = sorted(times)[max(0, -int(-share * len(times) // 1) - 1)]
        self.assertTrue(exact * 0.999999 <= counted.quantile(share) <= exact * 1.012, (exact, counted.quantile(share)))
        self.assertEqual(counted.maximum, max(times))

    def test_none(self) -> None:
        """
        Without acks there is nothing to wait for.
        """
        self.assertEqual(AckTimes().quantile(0.5), 0.0)


class RunTests(SynchronousTestCase):
    """
    The program, but for its process.
    """

    def setUp(self) -> None:
        """
        A gateway wherever it connects to.
        """
        self.reactor = MemoryReactor()
        self.gateway = self.reactor.gateway
        self.out, self.err = StringIO(), StringIO()

    def start(self, text: str) -> Any:
        """
        Run a command line.
        """
        done = run(self.reactor, text.split(), self.out, self.err)
        self.reactor.flush()
        return done

    def assertExit(self, done: Any, code: int) -> None:
        """
        It has ended with this exit status, and left no timer behind.
        """
        self.reactor.run(0.2)
        if code:
            self.assertEqual(self.failureResultOf(done, SystemExit).value.code, code)
        else:
            self.assertIs(self.successResultOf(done), None)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_json(self) -> None:
        """
        The sums are one JSON object on standard output, and nothing else is there.
        """
        done = self.start("--boxes 3 --tracks 20 --batch 8 --json --ramp 0 --timeout 60")
        self.assertExit(done, 0)
        sums = json.loads(self.out.getvalue())
        self.assertLessEqual(KEYS, set(sums))
        self.assertEqual((sums["boxes"], sums["tracks"], sums["sent"], sums["acked"]), (3, 60, 60, 60))
        self.assertEqual((sums["resent"], sums["connects"], sums["dropped_by_index"]), (0, 3, 0))
        self.assertEqual(set(sums["ack_ms"]), {"p50", "p99", "max"})
        self.assertEqual({asset for asset, _, _ in self.gateway.tracks}, set(countAssets(DEFAULT_ASSET, 3)))
        self.assertEqual(self.err.getvalue(), "")

    def test_text(self) -> None:
        """
        A person reads the same in words.
        """
        self.assertExit(self.start("--first-asset box-001"), 0)
        self.assertIn("1 box: 10 of 10 tracks acked in ", self.out.getvalue())
        self.assertIn("sent 10, resent 0, links 1", self.out.getvalue())
        self.assertNotIn("lost", self.out.getvalue())

    def test_progress(self) -> None:
        """
        A long run says how far it is, on standard error.
        """
        done = self.start("--rate 2 --tracks 22")
        self.reactor.run(12)
        self.assertRegex(self.err.getvalue(), r"^(9|10) of 22 tracks acked\n(19|20) of 22 tracks acked\n$")
        self.assertExit(done, 0)

    def test_timeout(self) -> None:
        """
        A run that takes too long ends with status 1 and the sums so far.
        """
        self.gateway.holding = True
        done = self.start("--tracks 30 --inflight 5 --json --timeout 3")
        self.reactor.run(2.9)
        self.assertNoResult(done)
        self.reactor.run(0.2)
        self.assertExit(done, 1)
        sums = json.loads(self.out.getvalue())
        self.assertEqual((sums["tracks"], sums["sent"], sums["acked"]), (30, 5, 0))
        self.assertTrue(2.9 <= sums["seconds"] <= 3.1)
        self.assertEqual(self.gateway.links, [])

    def test_refused(self) -> None:
        """
        Boxes that the gateway will not have end the run with status 1.
        """
        self.gateway.refusal = 5
        self.assertExit(self.start("--boxes 2 --ramp 0"), 1)
        self.assertIn("2 boxes that the gateway would not have", self.out.getvalue())

    def test_interrupted(self) -> None:
        """
        When the reactor stops, the sums so far are told.
        """
        self.gateway.holding = True
        done = self.start("--json")
        for trigger in self.reactor.triggers:
            trigger()
        self.reactor.flush()
        self.assertExit(done, 1)
        self.assertEqual(json.loads(self.out.getvalue())["acked"], 0)

    def test_state(self) -> None:
        """
        A state that cannot be kept is told in one line, with status 1.
        """
        folder = Path(self.mktemp())
        done = run(self.reactor, ["--state", str(folder)], self.out, self.err)
        folder.rmdir()
        self.reactor.flush()
        self.assertExit(done, 1)
        self.assertRegex(self.err.getvalue(), r"^binaryserver-box: --state: .*: No such file or directory\n$")

    def test_badOptions(self) -> None:
        """
        A bad command line is told in one line that names the option, with status 1.
        """
        for text, named in (
            ("--protocol md22", "--protocol: invalid choice: 'md22'"),
            ("--tracks many", "--tracks: 'many' is not a number"),
            ("--tracks -1", "--tracks: -1 is not between"),
            ("--rate nan", "--rate"),
            ("--stream 0", "--stream"),
            ("--what", "--what"),
            ("--boxes 2 --first-asset box", "--first-asset"),
            ("--connect nonsense", "--connect"),
            ("--connect tcp:", "--connect"),
            ("--connect tcp:localhost", "--connect"),
            ("--connect tls:localhost:1:trustRoots=/none/such", "--connect"),
            ("--key x", "--key"),
            ("--ca x", "--connect"),
            ("--connect tls:localhost:8883 --ca /none/such", "--ca: /none/such: No such file"),
            ("--connect tls:localhost:8883 --cert /none/{asset}.pem", f"--cert: /none/{DEFAULT_ASSET}.pem: No such"),
            ("--state /dev/null", "--state"),
            ("--password x", "--password"),
        ):
            self.setUp()
            error = self.assertRaises(SystemExit, self.start, text)
            self.assertEqual(error.code, 1)
            said = self.err.getvalue()
            self.assertTrue(said.startswith("binaryserver-box: ") and said.count("\n") == 1, said)
            self.assertIn(named, said)
            self.assertEqual(self.out.getvalue(), "")
