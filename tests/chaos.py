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
from functools import partial
from pathlib import Path
from random import Random
from subprocess import TimeoutExpired
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react
from twisted.internet.threads import deferToThread

from binaryserver.bus.topics import Topics
from binaryserver.model import BoxKey
from binaryserver.plugins import BackEndContext
from binaryserver.session.redisstore import RedisSessionStore
from tests.chaosplan import Fault, Plan, draw
from tests.chaosrig import Fleet, Follower, Instance, Sender, complaints
from tests.chaosverdict import Verdict, present
from tests.chaoswire import Wire
from tests.services import KafkaProcess, makeTopics, requireKafka, uniquePrefix
from tests.session.redisrig import RedisServer

_MISSING: Final = tuple(str(650000000000001 + number) for number in range(5))
_SETTLE: Final = 75.0
"""s until the last message has ended and presence is true, after everything is back."""
_GONE: Final = 40.0
"""s until all are told gone, and the mailboxes are empty."""


class Chaos:
    """
    One run.

    @ivar violations: what does not hold
    @ivar counts: what was counted
    @ivar prefix: of topics, and of keys in Redis
    """

    def __init__(self, seed: int, seconds: float, plan: Plan, folder: Path) -> None:
        self.violations: list[str] = []
        self.counts: Counter[str] = Counter()
        self._begun = time.monotonic()
        self._seed = seed
        self._seconds = seconds
        self._plan = plan
        self._folder = folder
        self.prefix = uniquePrefix()
        self._topics = Topics.named(self.prefix)
        self._closing: list[Callable[[], None]] = []
        # One that is cut off may be taken for dead.
        self._mayRepeat = any(fault.target[0] in "gw" and fault.kind != "drain" for fault in plan.faults)

    # The servers.

    def prepare(self) -> None:
        """
        Start everything.
        """
        from confluent_kafka.admin import AdminClient

        plan = self._plan
        self._say("starting")
        self._redis = RedisServer("--appendonly", "yes", "--appendfsync", "always")
        self._closing.append(self._redis.close)
        self._redis.start()
        self.sessions = self._sessions(self._redis.port)
        if plan.ownKafka:
            self._kafka = KafkaProcess()
            self._closing.append(self._kafka.close)
            self._kafka.start()
            bootstrap = self._kafka.bootstrap
            # It listens before it answers.
            AdminClient({"bootstrap.servers": bootstrap}).list_topics(timeout=60)
        else:
            bootstrap = requireKafka()
        makeTopics(bootstrap, self._topics.all, 4)
        self._wires = {f"w{number}": Wire(self._redis.port) for number in range(3)}
        self._closing += [wire.close for wire in self._wires.values()]
        options = (
            f"--topic-prefix={self.prefix}",
            f"--lease={plan.lease:g}",
            f"--reconnect-grace={plan.grace:g}",
        )
        self._instances = {
            f"g{number}": Instance(
                f"g{number}",
                plan.workers if number == 2 else 1,
                f"kafka://{bootstrap}",
                f"--sessions={self._sessions(self._wires[f'w{number}'].port)}",
                *options,
            )
            for number in range(3)
        }
        self._locks = {name: threading.Lock() for name in (*self._instances, *self._wires, "redis", "kafka")}
        self._locks |= {squad.name: threading.Lock() for squad in plan.leavers}
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
        self._leavers = {
            squad.name: Fleet(squad, ports, self._folder, "--tracks=0", "--keep-alive=5") for squad in plan.leavers
        }
        self._closing += [fleet.close for fleet in (*self._fleets, *self._leavers.values())]
        self._follower = Follower(bootstrap, self._topics.all)
        self._closing.append(self._follower.close)
        self._verdict = Verdict(self._topics, self._follower, plan.squads)
        self._sender = Sender(bootstrap, self._topics.downlink, plan.squads, _MISSING, self._seed)

    def _sessions(self, port: int) -> str:
        return f"redis://127.0.0.1:{port}/0?prefix={self.prefix}"

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

    def violated(self, *texts: str) -> None:
        """
        Say what does not hold.
        """
        for text in texts:
            self.violations.append(text)
            print(f"VIOLATED: {text}", flush=True)

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._begun:5.1f} s: {text}", flush=True)

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

    def _stall(self, fault: Fault, random: Random) -> None:
        wire = self._wires[fault.target]
        wire.stall()
        time.sleep(fault.seconds)
        wire.flow()

    def _cut(self, fault: Fault, random: Random) -> None:
        wire = self._wires[fault.target]
        wire.cut()
        time.sleep(fault.seconds)
        wire.mend()

    def _end(self, fault: Fault, random: Random) -> None:
        self._leavers[fault.target].close()

    def _drain(self, fault: Fault, random: Random) -> None:
        status = self._instances[fault.target].drain(fault.seconds)
        self.counts[f"drains that ended with {status}"] += 1
        if status:
            # What it could not finish may come again.
            self._mayRepeat = True

    def _happen(self, fault: Fault) -> None:
        try:
            with self._locks[fault.target]:
                self._say(str(fault))
                getattr(self, f"_{fault.kind}")(fault, Random(f"{self._seed} {fault.at}"))
        except Exception as error:
            self.violated(f"{fault}: {error!r}")

    def _send(self, until: float) -> None:
        try:
            self._sender.run(until, self._plan.rate)
        except Exception as error:
            self.violated(f"the sender failed: {error!r}")

    def _until(self, isSo: Callable[[], bool], deadline: float, what: Callable[[], str]) -> None:
        """
        @param deadline: s of the monotonic clock
        """
        begun = time.monotonic()
        self._why = ""
        self._follower.look()
        while not isSo():
            if time.monotonic() > deadline:
                self.violated(f"not within {deadline - begun:.0f} s: {what()}")
                return
            self._why = what()
            time.sleep(0.5)
            self._follower.look()
        self._say(f"settled; last: {self._why}")

    def _ended(self, name: str, wait: Callable[[], int]) -> None:
        try:
            status = wait()
        except TimeoutExpired as error:
            self.violated(f"{name} does not end within {error.timeout:g} s")
        else:
            if status:
                self.violated(f"{name} ended with {status}")

    def _present(self) -> set[str]:
        return present(self._follower.records[self._topics.presences])

    def disturb(self) -> None:
        """
        Let the schedule happen, and wait until all that was sent has ended.
        """
        self._begun = begun = time.monotonic()
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
        self._say("all is back")
        verdict, perBox = self._verdict, self._plan.tracks
        deadline = back + _SETTLE
        self._until(
            lambda: not verdict.unfinished(),
            deadline,
            lambda: f"messages without a final status: {len(verdict.unfinished())}, {verdict.unfinished()[:5]}",
        )
        self.counts["s until the last message ended"] = round(time.monotonic() - back)
        self._until(
            lambda: not verdict.untold(perBox),
            deadline,
            lambda: f"boxes without all their tracks: {verdict.untold(perBox)[:10]}",
        )
        steady = set(self._plan.squads[1].assets)
        self._until(lambda: steady <= self._present(), deadline, lambda: f"absent: {sorted(steady - self._present())}")
        self.counts["s until all was told"] = round(time.monotonic() - back)
        time.sleep(2)
        self._follower.look()
        if not steady <= self._present():
            self.violated(f"told gone, and there: {sorted(steady - self._present())[:10]}")

    def finish(self) -> None:
        """
        The boxes leave, and all are told gone.
        """
        self._say("the boxes leave")
        for fleet in self._fleets:
            fleet.leave()
        for fleet in self._fleets:
            self._ended(fleet.squad.name, partial(fleet.wait, 15))
        self._say("the boxes have left")
        self._until(
            lambda: not self._present(),
            time.monotonic() + _GONE,
            lambda: f"told connected, and gone: {sorted(self._present())}",
        )

    def judge(self) -> None:
        """
        Stop the gateways, and look at everything.
        """
        self._say("the gateways stop")
        for name, instance in self._instances.items():
            self._ended(name, instance.stop)
            self.violated(*(f"{name} logged: {text}" for text in complaints(instance.gateway.log())))
        self._follower.readOut()
        lines: list[dict[str, Any]] = []
        sums = []
        for fleet in self._fleets:
            *messages, its = [json.loads(line) for line in fleet.output.read_text().splitlines()]
            lines += messages
            sums.append(its)
        verdict = self._verdict
        self.violated(*verdict.ofMessages(lines))
        self.violated(*verdict.ofTracks(self._plan.tracks, self._mayRepeat))
        self.violated(*verdict.ofPresences())
        self.violated(*verdict.ofSums(sums))
        self.counts += verdict.counts

    @property
    def assets(self) -> list[str]:
        """
        All that messages were sent to.
        """
        return [*_MISSING, *(asset for squad in self._plan.squads for asset in squad.assets)]


async def _left(store: RedisSessionStore, prefix: str, assets: Sequence[str]) -> list[str]:
    """
    What stands in Redis and should not: mail, its counts, what is due, and boxes that somebody holds.
    """
    left = [f"mailbox of {asset}: {mail}" for asset in assets if (mail := await store.mailbox(BoxKey("dev", asset)))]
    call = store._link.call
    for key in await call("KEYS", f"{prefix}mail:*"):
        live, size = await call("HMGET", key, "live", "bytes")
        if int(live or 0) or int(size or 0):
            left.append(f"{key.decode()} counts {live} messages of {size} bytes")
    for kind in ("queue:*", "held:*", "due"):
        left += [f"{key.decode()} is there" for key in await call("KEYS", f"{prefix}{kind}")]
    return left


async def _mail(reactor: Any, chaos: Chaos) -> None:
    """
    See that Redis has nothing left of it all.
    """
    store = RedisSessionStore(chaos.sessions, BackEndContext(reactor, "--sessions", startTimeout=10.0, stopTimeout=5.0))
    await store.start()
    deadline = time.monotonic() + _GONE
    while (left := await _left(store, chaos.prefix, chaos.assets)) and time.monotonic() < deadline:
        await deferLater(reactor, 1)
    chaos.violated(*left)
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
    print(f"seed {options.seed}: {plan._replace(squads=(), leavers=(), faults=())}")
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
        print(f"seed {options.seed}: {len(chaos.violations)} violations", flush=True)
        if chaos.violations:
            raise SystemExit(1)

    return Deferred.fromCoroutine(_run(reactor, chaos)).addCallback(report)


if __name__ == "__main__":
    react(main, (sys.argv[1:],))
