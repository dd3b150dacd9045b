"""
Chaos from a seed: C{python -m tests.chaos --seed N --seconds S}.

Three gateways, a Redis, a Kafka and fleets of boxes, on real processes; messages of every kind all the time; and a
schedule, drawn from the seed, of what is killed, frozen, drained and started again meanwhile. Then all is brought back,
the boxes finish, and what G1 to G6 promise is looked for on the bus and in what the boxes printed. Prints the schedule,
what it counted and what is violated; exit status 1 where something is.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react
from twisted.internet.threads import deferToThread

from binaryserver.bus.topics import Topics
from binaryserver.model import BoxKey
from binaryserver.plugins import BackEndContext
from binaryserver.session.redisstore import RedisSessionStore
from tests.chaosrig import Fleet, Follower, Instance, Sender, Squad, complaints
from tests.chaosverdict import Verdict, present
from tests.services import KafkaProcess, makeTopics, requireKafka, uniquePrefix
from tests.session.redisrig import RedisServer

_MISSING: Final = tuple(str(650000000000001 + number) for number in range(5))
_SETTLE: Final = 75.0
"""s until the last message has ended and presence is true, after everything is back."""
_GONE: Final = 40.0
"""s until all are told gone, and the mailboxes are empty."""


class Fault(NamedTuple):
    """
    Something that goes wrong.

    @ivar at: s from the start
    @ivar kind: a method of L{Chaos}, without its underscore
    @ivar target: an instance's name, C{redis} or C{kafka}
    @ivar seconds: how long it is frozen or down
    """

    at: float
    kind: str
    target: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.at:5.1f} s: {self.kind} {self.target} for {self.seconds:.1f} s"


class Plan(NamedTuple):
    """
    What is drawn from a seed.

    @ivar ownKafka: the broker is this run's, and goes wrong too
    @ivar workers: of the last instance
    @ivar lease: s
    @ivar grace: s
    @ivar rate: messages a second
    @ivar tracks: of each box
    """

    ownKafka: bool
    workers: int
    lease: float
    grace: float
    rate: float
    tracks: int
    squads: tuple[Squad, ...]
    faults: tuple[Fault, ...]


def draw(seed: int, seconds: float, kafka: str = "") -> Plan:
    """
    @param kafka: C{own} or C{shared}; empty: drawn as well
    """
    random = Random(seed)
    isOwn = random.random() < 0.5
    if kafka:
        isOwn = kafka == "own"
    workers = random.choice((1, 1, 2))
    lease, grace = random.choice(((10.0, 10.0), (3.0, 3.0), (3.0, 3.0)))
    squads = (
        Squad(
            "movers",
            350000000000001,
            random.randint(20, 60),
            "ok",
            (
                f"--cut-every={random.choice((3, 6, 12))}",
                f"--cut-on-message={random.choice((0.01, 0.05))}",
                f"--lose-acks={random.choice((0, 0.02))}",
                f"--resend={random.choice(('same', 'new'))}",
                "--reconnect-delay=0.2",
            ),
        ),
        Squad("steady", 450000000000001, random.randint(20, 60), "ok", ("--reconnect-delay=0.3",)),
        Squad(
            "moody",
            550000000000001,
            random.randint(10, 25),
            random.choice(("no-listener", "not-understood")),
            (f"--resend={random.choice(('same', 'new'))}", "--cut-every=15", "--reconnect-delay=0.2"),
        ),
    )
    return Plan(
        isOwn,
        workers,
        lease,
        grace,
        random.uniform(60, 150),
        round(2 * seconds),
        squads,
        _faults(random, seconds, isOwn),
    )


def _faults(random: Random, seconds: float, ownKafka: bool) -> tuple[Fault, ...]:
    kinds: dict[tuple[str, str], tuple[float, float, float]] = {
        # How often, and for how many s.
        ("kill", "instance"): (5, 0.1, 6),
        ("freeze", "instance"): (5, 1, 20),
        ("drain", "instance"): (3, 0, 3),
        ("freeze", "redis"): (2, 0.5, 8),
        ("kill", "redis"): (2, 0.1, 4),
    }
    if ownKafka:
        kinds |= {("freeze", "kafka"): (2, 0.5, 10), ("kill", "kafka"): (1.5, 0.1, 3)}
    busyUntil: Counter[str] = Counter()
    faults = []
    at = random.uniform(3, 6)
    while at < seconds:
        (choice,) = random.choices(list(kinds), [often for often, _, _ in kinds.values()])
        kind, target = choice
        _, shortest, longest = kinds[choice]
        if target == "instance":
            target = f"g{random.randrange(3)}"
        lasts = min(random.uniform(shortest, longest), seconds + 5 - at)
        if at >= busyUntil[target]:
            faults.append(Fault(at, kind, target, lasts))
            busyUntil[target] = at + lasts + 3
        at += random.expovariate(1 / 2.5)
    return tuple(faults)


class Chaos:
    """
    One run.

    @ivar violations: what does not hold
    @ivar counts: what was counted
    """

    def __init__(self, seed: int, seconds: float, plan: Plan, folder: Path) -> None:
        self.violations: list[str] = []
        self.counts: Counter[str] = Counter()
        self._seed = seed
        self._seconds = seconds
        self._plan = plan
        self._folder = folder
        self._prefix = uniquePrefix()
        self._topics = Topics.named(self._prefix)
        self._closing: list[Callable[[], None]] = []
        self._mayRepeat = any(fault.target.startswith("g") and fault.kind != "drain" for fault in plan.faults)

    # The servers.

    def prepare(self) -> None:
        """
        Start everything.
        """
        plan = self._plan
        self._redis = RedisServer("--appendonly", "yes", "--appendfsync", "always")
        self._closing.append(self._redis.close)
        self._redis.start()
        self.sessions = f"redis://127.0.0.1:{self._redis.port}/0?prefix={self._prefix}"
        if plan.ownKafka:
            self._kafka = KafkaProcess()
            self._closing.append(self._kafka.close)
            self._kafka.start()
            bootstrap = self._kafka.bootstrap
        else:
            bootstrap = requireKafka()
        makeTopics(bootstrap, self._topics.all, 4)
        options = (
            f"--topic-prefix={self._prefix}",
            f"--sessions={self.sessions}",
            f"--lease={plan.lease:g}",
            f"--reconnect-grace={plan.grace:g}",
        )
        self._instances = {
            f"g{number}": Instance(f"g{number}", plan.workers if number == 2 else 1, f"kafka://{bootstrap}", *options)
            for number in range(3)
        }
        self._locks = {name: threading.Lock() for name in (*self._instances, "redis", "kafka")}
        for instance in self._instances.values():
            self._closing.append(instance.close)
            instance.start()
        ports = [instance.gateway.port for instance in self._instances.values()]
        common = (
            f"--tracks={plan.tracks}",
            "--rate=2",
            "--keep-alive=5",
            "--ack-timeout=6",
            f"--seed={self._seed}",
            f"--timeout={self._seconds + 200:g}",
        )
        self._fleets = [Fleet(squad, ports, self._folder, *common) for squad in plan.squads]
        self._closing += [fleet.close for fleet in self._fleets]
        self._follower = Follower(bootstrap, self._topics.all)
        self._closing.append(self._follower.close)
        self._verdict = Verdict(self._topics, self._follower, plan.squads)
        self._sender = Sender(bootstrap, self._topics.downlink, plan.squads, _MISSING, self._seed)

    def close(self) -> None:
        """
        End everything; what was logged and printed is in the folder.
        """
        if hasattr(self, "_instances"):
            for name, instance in self._instances.items():
                with (self._folder / f"{name}.log").open("w") as file:
                    file.write(instance.gateway.log())
        for close in reversed(self._closing):
            close()

    # What goes wrong: each in a thread of its own, one at a time of a target.

    def _kill(self, fault: Fault, random: Random) -> None:
        if fault.target in self._instances:
            self._instances[fault.target].kill(fault.seconds, random)
        else:
            server = self._redis if fault.target == "redis" else self._kafka
            server.kill9()
            time.sleep(fault.seconds)
            server.start()

    def _freeze(self, fault: Fault, random: Random) -> None:
        if fault.target in self._instances:
            self._instances[fault.target].freeze(fault.seconds, random)
        else:
            server = self._redis if fault.target == "redis" else self._kafka
            server.freeze()
            time.sleep(fault.seconds)
            server.thaw()

    def _drain(self, fault: Fault, random: Random) -> None:
        status = self._instances[fault.target].drain(fault.seconds)
        self.counts[f"drains that ended with {status}"] += 1
        if status:
            # What it could not finish may come again.
            self._mayRepeat = True

    def _happen(self, fault: Fault) -> None:
        try:
            with self._locks[fault.target]:
                print(f"{time.strftime('%X')} {fault}", flush=True)
                getattr(self, f"_{fault.kind}")(fault, Random(f"{self._seed} {fault.at}"))
        except Exception as error:
            self.violations.append(f"{fault}: {error!r}")

    def _send(self, until: float) -> None:
        try:
            self._sender.run(until, self._plan.rate)
        except Exception as error:
            self.violations.append(f"the sender failed: {error!r}")

    def _until(self, isSo: Callable[[], bool], seconds: float, what: Callable[[], str]) -> None:
        deadline = time.monotonic() + seconds
        self._follower.look()
        while not isSo():
            if time.monotonic() > deadline:
                self.violations.append(f"not within {seconds:g} s: {what()}")
                return
            time.sleep(0.5)
            self._follower.look()

    def _present(self) -> set[str]:
        return present(self._follower.records[self._topics.presences])

    def disturb(self) -> None:
        """
        Let the schedule happen, and wait until all that was sent has ended.
        """
        begun = time.monotonic()
        threads = [threading.Thread(target=self._send, args=(begun + self._seconds,))]
        threads[0].start()
        for fault in self._plan.faults:
            time.sleep(max(0.0, begun + fault.at - time.monotonic()))
            thread = threading.Thread(target=self._happen, args=(fault,))
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join()
        back = time.monotonic()
        self.counts["messages sent"] = self._sender.sent.total()
        print(f"{time.strftime('%X')} all is back, {back - begun:.1f} s after the start", flush=True)
        verdict, perBox = self._verdict, self._plan.tracks
        self._until(
            lambda: not verdict.unfinished(),
            _SETTLE,
            lambda: f"messages without a final status: {len(verdict.unfinished())}, {verdict.unfinished()[:5]}",
        )
        self.counts["s until the last message ended"] = round(time.monotonic() - back)
        self._until(
            lambda: not verdict.untold(perBox),
            _SETTLE,
            lambda: f"boxes without all their tracks: {verdict.untold(perBox)[:10]}",
        )
        steady = set(self._plan.squads[1].assets)
        self._until(lambda: steady <= self._present(), _SETTLE, lambda: f"absent: {sorted(steady - self._present())}")
        self.counts["s until all was told"] = round(time.monotonic() - back)
        time.sleep(2)
        self._follower.look()
        if not steady <= self._present():
            self.violations.append(f"told gone, and there: {sorted(steady - self._present())[:10]}")

    def finish(self) -> None:
        """
        The boxes leave, and all are told gone.
        """
        for fleet in self._fleets:
            fleet.leave()
        for fleet in self._fleets:
            if status := fleet.wait(15):
                self.violations.append(f"{fleet.squad.name} ended with {status}")
        self._until(lambda: not self._present(), _GONE, lambda: f"told connected, and gone: {sorted(self._present())}")

    def judge(self) -> None:
        """
        Stop the gateways, and look at everything.
        """
        for name, instance in self._instances.items():
            if status := instance.stop():
                self.violations.append(f"{name} ended with {status}")
            self.violations += [f"{name} logged: {text}" for text in complaints(instance.gateway.log())]
        self._follower.look()
        lines: list[dict[str, Any]] = []
        sums = []
        for fleet in self._fleets:
            *messages, its = [json.loads(line) for line in fleet.output.read_text().splitlines()]
            lines += messages
            sums.append(its)
        verdict = self._verdict
        self.violations += verdict.ofMessages(lines)
        self.violations += verdict.ofTracks(self._plan.tracks, self._mayRepeat)
        self.violations += verdict.ofSums(sums)
        self.counts += verdict.counts

    @property
    def assets(self) -> list[str]:
        """
        All that messages were sent to.
        """
        return [*_MISSING, *(asset for squad in self._plan.squads for asset in squad.assets)]


async def _mail(reactor: Any, chaos: Chaos) -> None:
    """
    See that the mailboxes become empty.
    """
    store = RedisSessionStore(chaos.sessions, BackEndContext(reactor, "--sessions", startTimeout=10.0, stopTimeout=5.0))
    await store.start()
    deadline = time.monotonic() + _GONE
    while True:
        full = [(asset, mail) for asset in chaos.assets if (mail := await store.mailbox(BoxKey("dev", asset)))]
        if not full or time.monotonic() > deadline:
            break
        await deferLater(reactor, 1)
    for asset, mail in full:
        chaos.violations.append(f"mailbox of {asset}: {mail}")
    await store.stop()


async def _run(reactor: Any, chaos: Chaos) -> None:
    try:
        await deferToThread(chaos.prepare)
        await deferToThread(chaos.disturb)
        await deferToThread(chaos.finish)
        await _mail(reactor, chaos)
        await deferToThread(chaos.judge)
    finally:
        await deferToThread(chaos.close)


def main(reactor: Any, arguments: Sequence[str]) -> Deferred[None]:
    """
    The program.

    @return: fails with C{SystemExit} where something is violated
    """
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Chaos from a seed.")
    parser.add_argument("--seed", type=int, default=1, help="what all is drawn from (default: 1)")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long things go wrong (default: 30)")
    parser.add_argument("--kafka", choices=("own", "shared"), default="", help="which broker (default: drawn)")
    parser.add_argument("--keep", metavar="DIR", help="leave logs and the boxes' output there")
    options = parser.parse_args(arguments)
    plan = draw(options.seed, options.seconds, options.kafka)
    print(f"seed {options.seed}: {plan._replace(squads=(), faults=())}")
    for squad in plan.squads:
        print(f"  {squad}")
    for fault in plan.faults:
        print(f"  {fault}")
    folder = Path(options.keep or tempfile.mkdtemp(prefix="chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    chaos = Chaos(options.seed, options.seconds, plan, folder)

    def report(_: object) -> None:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
        for name, count in sorted(chaos.counts.items()):
            print(f"{name}: {count}")
        for violation in chaos.violations:
            print(f"VIOLATED: {violation}")
        print(f"seed {options.seed}: {len(chaos.violations)} violations", flush=True)
        if chaos.violations:
            raise SystemExit(1)

    return Deferred.fromCoroutine(_run(reactor, chaos)).addCallback(report)


if __name__ == "__main__":
    react(main, (sys.argv[1:],))
