"""
Real Shovels between a real Redis and a real Kafka, killed, frozen and left alone.
"""

from __future__ import annotations

import signal
import subprocess
from urllib.error import HTTPError
from urllib.request import urlopen

import msgpack
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from binaryserver.bus.clouds import CloudsBus
from binaryserver.bus.kafkabus import KafkaBus
from binaryserver.model import Clouds, Record
from binaryserver.plugins import BackEndContext
from binaryserver.proto import cloudnext_pb2
from binaryserver.transcode.cloudconnect import encodeEvent
from binaryserver.transcode.cloudconnect_layout import RESERVED, Kind
from tests.services import KafkaProcess, requireKafka
from tests.session.contract_base import reactor
from tests.shovel.events import recordsOf, trackRecords
from tests.shovel.process import ShovelProcess, ShovelTestCase, publishAll


class ShovelProcessTests(ShovelTestCase):
    """
    The whole way.
    """

    async def test_equalsDirect(self) -> None:
        """
        What went through RQueue and Shovel equals what was published directly: key, value, headers, partition, order.
        """
        direct = self.makeTopics(requireKafka())
        bus = KafkaBus(f"kafka://{self.kafka}", BackEndContext(reactor, "--bus", topics=direct.all))
        self.addCleanup(bus.stop)
        await bus.start()
        self.startRedis()
        shovelled = self.makeTopics(self.kafka)
        queue = await self.startQueue(shovelled)
        shovel = self.shovel()
        for kind in Kind:
            name = f"{kind.value}s"
            for asset in ("box-1", "box-2", "box-3"):
                records = recordsOf(kind, 100, asset)
                topic = getattr(direct, name)
                await bus.publish(topic, bus.partitionFor(topic, records[0].key), records)
                await queue.publish(getattr(shovelled, name), 0, records)
        await self.until(lambda: shovel.get("counts")["copied"] == {"track": 300, "message": 300, "presence": 300})
        for kind in Kind:
            one, two = (self.consume(getattr(topics, f"{kind.value}s")) for topics in (direct, shovelled))
            self.assertEqual(sum(map(len, one.values())), 300)
            self.assertEqual({key: sorted(place) for key, place in one.items()}, {k: sorted(p) for k, p in two.items()})
            for asset in ("box-1", "box-2", "box-3"):
                key = f"acme/{asset}".encode()
                self.assertEqual(*([r for p in each.values() for r in p if r.key == key] for each in (one, two)))
        self.assertEqual(shovel.get("readyz")["status"], "ok")
        self.assertEqual(shovel.terminate(), 0)

    async def test_kill9(self) -> None:
        """
        A Shovel is killed in the middle, again and again, and another started: nothing is lost, and what is repeated
        has the same C{ce_id}.
        """
        self.startRedis()
        topics = self.makeTopics(requireKafka())
        queue = await self.startQueue(topics)
        records = await publishAll(queue, topics.tracks, 6, 1500)
        for _ in range(3):
            shovel = self.shovel("--batch=100")
            copied = 0
            while copied < 1000:
                copied = shovel.get("counts")["copied"]["track"]
            shovel.kill9()
        last = self.shovel("--batch=100")
        await self.until(
            lambda: not (last.get("counts")["backlog"]["track"] or last.get("counts")["copied"]["track"] == 0)
        )
        self.assertEqual(last.terminate(), 0)
        self.assertLessEqual(self.assertAtLeastOnce(topics.tracks, records), 3 * 100)

    async def test_standby(self) -> None:
        """
        Of two Shovels one reads a list; when it is killed, or frozen for longer than its lease, the other goes on where
        it stopped; thawed, it does no harm.
        """
        self.startRedis()
        topics = self.makeTopics(requireKafka())
        queue = await self.startQueue(topics)
        one = self.shovel("--batch=50")
        two = self.shovel("--batch=50")
        self.assertTrue(one.get("counts")["reading"]["track"])
        self.assertFalse(two.get("counts")["reading"]["track"])
        records = await publishAll(queue, topics.tracks, 4, 400, pause=0.02)
        one.signal(signal.SIGSTOP)
        more = [record for box in range(4) for record in trackRecords(400, 300, f"box-{box}")]
        await queue.publish(topics.tracks, 0, more)
        await self.until(lambda: two.get("counts")["reading"]["track"])
        one.signal(signal.SIGCONT)
        await self.until(lambda: two.get("counts")["backlog"]["track"] == 0)
        await self.until(lambda: not one.get("counts")["reading"]["track"])
        two.kill9()
        last = trackRecords(700, 50, "box-0")
        await queue.publish(topics.tracks, 0, last)
        await self.until(lambda: one.get("counts")["reading"]["track"])
        await self.until(lambda: one.get("counts")["backlog"]["track"] == 0)
        self.assertEqual(one.terminate(), 0)
        self.assertLessEqual(self.assertAtLeastOnce(topics.tracks, [*records, *more, *last]), 150)

    async def test_redisKilled(self) -> None:
        """
        Redis is killed and comes back while events go in and out: each arrives.
        """
        redis = self.startRedis()
        topics = self.makeTopics(requireKafka())
        queue = await self.startQueue(topics)
        shovel = self.shovel("--batch=50")
        reactor.callLater(1.0, redis.kill9)
        reactor.callLater(4.0, redis.start)
        records = await publishAll(queue, topics.tracks, 4, 1000, pause=0.02)
        await self.until(lambda: shovel.get("counts")["copied"]["track"] >= 4000)
        self.assertIn("cannot be read", shovel.log())
        self.assertLessEqual(self.assertAtLeastOnce(topics.tracks, records), 50)
        self.assertEqual(shovel.terminate(), 0)

    async def test_kafkaFrozen(self) -> None:
        """
        Kafka is frozen for longer than the lease: the events wait where they are, and all arrives once it is back;
        another Shovel does not take the list meanwhile.
        """
        kafka = KafkaProcess()
        self.addCleanup(kafka.close)
        kafka.start()
        self.startRedis()
        topics = self.makeTopics(kafka.bootstrap)
        queue = await self.startQueue(topics)
        one = self.shovel("--batch=50", "--drain-timeout=2")
        two = self.shovel("--batch=50")
        records = await publishAll(queue, topics.tracks, 4, 200)
        kafka.freeze()
        more = trackRecords(200, 300, "box-1")
        await queue.publish(topics.tracks, 0, more)
        await deferLater(reactor, 6)
        self.assertTrue(one.get("counts")["reading"]["track"])
        self.assertGreater(one.get("counts")["backlog"]["track"], 0)
        kafka.thaw()
        await self.until(lambda: one.get("counts")["copied"]["track"] >= 1100)
        self.assertEqual(self.assertAtLeastOnce(topics.tracks, [*records, *more]), 0)
        self.assertEqual(two.get("counts")["copied"]["track"], 0)
        self.assertEqual(two.terminate(), 0)
        # A stop that waits for Kafka in vain is cut short, says so, and loses nothing.
        kafka.freeze()
        last = trackRecords(500, 20, "box-1")
        await queue.publish(topics.tracks, 0, last)
        await deferLater(reactor, 1)
        self.assertEqual(one.terminate(), 1)
        kafka.thaw()
        three = self.shovel()
        await self.until(lambda: three.get("counts")["copied"]["track"] == 20)
        self.assertEqual(three.get("counts")["again"], 20)
        self.assertLessEqual(self.assertAtLeastOnce(topics.tracks, [*records, *more, *last]), 20)

    async def test_clouds(self) -> None:
        """
        Three accounts by the gateway's side, each in other clouds: CloudNext sees each event once, the poison beside
        them in C{rejects}.
        """
        self.startRedis()
        topics = self.makeTopics(requireKafka())
        main = KafkaBus(f"kafka://{self.kafka}", BackEndContext(reactor, "--bus", topics=topics.all))
        queue = await self.startQueue(topics)
        accounts = {"next": Clouds.cloudnext, "connect": Clouds.cloudconnect, "both": Clouds.both}
        bus = CloudsBus(main, queue, accounts.__getitem__)
        self.addCleanup(main.stop)
        await main.start()
        expected: list[Record] = []
        for account in accounts:
            records = trackRecords(0, 200, "box-1", account)
            expected += records
            await bus.publish(topics.tracks, bus.partitionFor(topics.tracks, records[0].key), records)
        await queue._link.call("RPUSH", f"{self.prefix}tracks", b"poison")
        shovel = self.shovel()
        await self.until(lambda: shovel.get("counts")["rejected"]["track"] == 1)
        counts = shovel.get("counts")
        self.assertEqual((counts["copied"]["track"], counts["skipped"]["track"]), (200, 200))
        self.assertEqual(self.assertAtLeastOnce(topics.tracks, expected), 0)
        (rejects,) = self.consume(topics.rejects).values()
        reject = cloudnext_pb2.Reject.FromString(rejects[0].value)
        self.assertEqual((reject.payload, reject.code, reject.source), (b"poison", "DECODE", "rqueue:tracks"))

    async def test_strangeRecords(self) -> None:
        """
        What can be read as an event and is a strange record, such as nobody publishes, blocks nothing either.
        """
        self.startRedis()
        topics = self.makeTopics(requireKafka())
        queue = await self.startQueue(topics)
        (record, last) = trackRecords(0, 2)
        strange: tuple[dict[str, object], ...] = (
            {"headers": [["", b"x"]]},
            {"headers": [["a\0b", b"x"]]},
            {"headers": [["\u00fc" * 40_000, b""]]},
            {"headers": [["n", b"v"]] * 40_000},
            {"headers": []},
            {"key": b""},
            {"key": b"\xff" * 200_000},
        )
        for rest in strange:
            event = msgpack.unpackb(encodeEvent(Kind.track, record))
            event["meta"][RESERVED].update(rest)
            await queue._link.call("RPUSH", f"{self.prefix}tracks", msgpack.packb(event))
        await queue.publish(topics.tracks, 0, [last])
        shovel = self.shovel()

        def done() -> int:
            counts = shovel.get("counts")
            return int(counts["copied"]["track"]) + int(counts["rejected"]["track"])

        await self.until(lambda: done() == len(strange) + 1)
        self.assertIn(last, [record for records in self.consume(topics.tracks).values() for record in records])

    async def test_memoryShort(self) -> None:
        """
        A Redis without memory takes no more events, which wait, but gives out what it has: the Shovel makes room.
        """
        redis = self.startRedis()
        topics = self.makeTopics(requireKafka())
        queue = await self.startQueue(topics)
        link = queue._link

        async def limit(more: int) -> None:
            info = (await link.call("INFO", "memory")).split()
            used = next(int(line[12:]) for line in info if line.startswith(b"used_memory:"))
            await link.call("CONFIG", "SET", "maxmemory", used + more)

        await limit(5_000_000)
        done = Deferred.fromCoroutine(publishAll(queue, topics.tracks, 4, 3000))
        await deferLater(reactor, 2)
        self.assertFalse(done.called)
        await limit(-500_000)
        shovel = self.shovel()
        records = await done
        await self.until(lambda: shovel.get("counts")["copied"]["track"] == 12_000)
        self.assertEqual(self.assertAtLeastOnce(topics.tracks, records), 0)
        redis.close()

    async def test_http(self) -> None:
        """
        Health tells what is wrong; what is not there is not there.
        """
        redis = self.startRedis()
        self.makeTopics(requireKafka())
        shovel = self.shovel()
        self.assertEqual(shovel.get("livez"), {"status": "ok"})
        for page in ("", "nothing", "counts/x"):
            error = self.assertRaises(HTTPError, shovel.get, page)
            self.assertEqual(error.code, 404)
            error.close()
        error = self.assertRaises(HTTPError, urlopen, f"http://127.0.0.1:{shovel.httpPort}/counts", b"x", 10)
        self.assertEqual(error.code, 405)
        error.close()
        redis.kill9()

        def troubled() -> bool:
            try:
                shovel.get("readyz")
            except HTTPError as error:
                with error:
                    return error.code == 503 and b"cannot be reached" in error.read()
            return False

        await self.until(troubled)
        self.assertEqual(shovel.get("livez"), {"status": "ok"})
        self.assertIn(shovel.terminate(), (0, 1))


class OptionsProcessTests(ShovelTestCase):
    """
    Starts that cannot succeed.
    """

    def refusal(self, *options: str) -> str:
        """
        What it says, in one line, before it ends with status 1.
        """
        process = ShovelProcess(*options)
        self.addCleanup(process.close)
        done = subprocess.run(process.command(), capture_output=True, timeout=60, cwd=process.folder, check=False)
        self.assertEqual(done.returncode, 1, done.stderr)
        (line,) = done.stderr.decode().splitlines()
        return line

    def test_badOptions(self) -> None:
        """
        Each ends the start with one line that names the option.
        """
        good = "--rqueue=rqueue://127.0.0.1:1/0"
        for options, text in (
            ((), "--rqueue: it must be given"),
            (("--rqueue=redis://x/0",), "--rqueue: the form is rqueue://"),
            ((good, "--bus=pigeon:"), "--bus: "),
            ((good, "--batch=0"), "--batch: "),
            ((good, "--bus=memory:", "--start-timeout=0.5"), "--rqueue: redis://127.0.0.1:1/0: "),
            ((good, "--bus=memory:", "--http=nonsense"), "--http: "),
        ):
            self.assertIn(text, self.refusal(*options))

    def test_missingTopic(self) -> None:
        """
        Topics that are not there end the start.
        """
        self.startRedis()
        line = self.refusal(
            f"--rqueue={self.rqueue}",
            f"--bus=kafka://{requireKafka()}",
            f"--topic-prefix={self.prefix.replace(':', '.')}",
        )
        self.assertIn("--bus: ", line)
        self.assertIn("topics create", line)
