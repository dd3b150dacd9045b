"""
What the chaos test draws from a seed: the boxes, and the schedule of what goes wrong.
"""

from __future__ import annotations

from collections import defaultdict
from random import Random
from typing import NamedTuple

from tests.chaosrig import Squad


class Fault(NamedTuple):
    """
    Something that goes wrong.

    @ivar at: s from the start
    @ivar kind: a method of L{tests.chaos.Chaos}, without its underscore
    @ivar target: the name of an instance, of its wire to Redis or of a squad, C{redis} or C{kafka}
    @ivar seconds: how long it is frozen or down
    """

    at: float
    kind: str
    target: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.kind} {self.target} for {self.seconds:.1f} s (planned at {self.at:.1f} s)"


class Plan(NamedTuple):
    """
    What is drawn from a seed.

    @ivar ownKafka: the broker is this run's, and goes wrong too
    @ivar workers: of the last instance
    @ivar lease: s
    @ivar grace: s
    @ivar rate: messages a second
    @ivar tracks: of each box
    @ivar leavers: boxes without tracks and messages that end for good, each squad as an instance does
    """

    ownKafka: bool
    workers: int
    lease: float
    grace: float
    rate: float
    tracks: int
    squads: tuple[Squad, ...]
    leavers: tuple[Squad, ...]
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
    faults = _faults(random, seconds, isOwn)
    ends = [fault.at for fault in faults if fault.target[0] == "g" and fault.kind in ("kill", "drain")][:4]
    leavers = tuple(
        Squad(f"leavers{number}", 750000000000001 + 1000 * number, 8, "ok", ("--reconnect-delay=0.2",))
        for number in range(len(ends))
    )
    faults += tuple(
        Fault(max(0.0, at - random.uniform(0.0, 0.1)), "end", squad.name, 0.0)
        for at, squad in zip(ends, leavers, strict=True)
    )
    return Plan(
        isOwn,
        workers,
        lease,
        grace,
        random.uniform(60, 150),
        round(2 * seconds),
        squads,
        leavers,
        tuple(sorted(faults)),
    )


def _faults(random: Random, seconds: float, ownKafka: bool) -> tuple[Fault, ...]:
    kinds: dict[tuple[str, str], tuple[float, float, float]] = {
        # How often, and for how many s.
        ("kill", "instance"): (5, 0.1, 6),
        ("freeze", "instance"): (5, 0.5, 20),
        ("drain", "instance"): (3, 0, 3),
        ("freeze", "redis"): (2, 0.5, 8),
        ("kill", "redis"): (2, 0.1, 4),
        # Between one instance and Redis.
        ("stall", "wire"): (2, 0.5, 14),
        ("cut", "wire"): (1.5, 0.1, 6),
    }
    if ownKafka:
        kinds |= {("freeze", "kafka"): (2, 0.5, 10), ("kill", "kafka"): (1.5, 0.1, 3)}
    gap = random.choice((0.8, 1.5, 3.0))
    busyUntil: dict[str, float] = defaultdict(float)
    faults = []
    at = random.uniform(3, 6)
    while at < seconds:
        (choice,) = random.choices(list(kinds), [often for often, _, _ in kinds.values()])
        kind, target = choice
        _, shortest, longest = kinds[choice]
        if target == "instance":
            target = f"g{random.randrange(3)}"
        elif target == "wire":
            target = f"w{random.randrange(3)}"
        lasts = min(random.uniform(shortest, longest), seconds + 5 - at)
        if at >= busyUntil[target]:
            faults.append(Fault(at, kind, target, lasts))
            busyUntil[target] = at + lasts + 3
        at += random.expovariate(1 / gap)
    return tuple(faults)
