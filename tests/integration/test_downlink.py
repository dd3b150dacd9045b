"""
Several real gateways on one Kafka and one Redis behave as one server: messages to boxes that move, instances that die,
presence that is true (G5, G6).
"""

from __future__ import annotations

import json
import signal
import time
from collections import Counter

from binaryserver.proto import cloudnext_pb2
from tests.integration.instances import GONE, InstancesTestCase, assets


class InstancesTests(InstancesTestCase):
    """
    Instances that live and die.
    """

    def test_movingBoxes(self) -> None:
        """
        Three instances and 240 boxes that lose their links and come back elsewhere, some of them before they ack; one
        instance is killed meanwhile, and its consumer's partitions move. Every message ends in one final status, none
        reaches an application twice, and order holds.
        """
        boxes, rounds = 240, 10
        gateways = [self.gateway(f"g{number}") for number in range(3)]
        fleet = self.fleet(
            gateways, f"--boxes={boxes}", "--stay", "--cut-every=6", "--cut-on-message=0.03", "--reconnect-delay=0.2"
        )
        # Some are on their way to another instance at any time.
        self.until(lambda: len(self.present()) > boxes * 0.9, 30, "all are there")
        sent = []
        for number in range(rounds):
            for asset in assets(boxes):
                id_ = f"{asset}-{number}"
                self.send(asset=asset, id=id_, payload=b"%d" % number, want_ack=number % 3 == 0)
                sent.append(id_)
            time.sleep(1)
            if number == 4:
                gateways[0].kill9()
        self.producer.flush(10)
        self.until(lambda: len(self.finals()) >= len(sent), 60, "every message has a final status")
        finals = self.finals()
        self.until(lambda: len(self.present()) > boxes * 0.9, 40, "all are told present again")
        fleet.send_signal(signal.SIGTERM)
        fleet.wait(30)
        *received, sums = [json.loads(line) for line in self.output.read_text().splitlines()]

        self.assertEqual(set(finals), set(sent))
        for id_, events in finals.items():
            told = {(event.message_status.status, event.id) for event in events}
            self.assertEqual(len(told), 1, f"{id_} has ended in several ways")
            self.assertEqual(events[0].message_status.status, cloudnext_pb2.DELIVERY_STATUS_ACKED)
        repeatedFinals = sum(len(events) - 1 for events in finals.values())
        self.assertLess(repeatedFinals, len(sent) // 20, "a final status is repeated after a crash only")
        counts = Counter(line["id"] for line in received)
        self.assertEqual(set(counts), set(sent))
        self.assertEqual(set(counts.values()), {1})
        self.assertEqual(sums["messages"]["disordered"], 0)
        self.assertGreater(sums["messages"]["repeats"], 0, "no box was cut between a message and its ack")
        self.until(lambda: not self.present(), 10, "all are told gone")
        for gateway in gateways[1:]:
            self.assertEqual(gateway.terminate(), 0)

    def test_killedWithItsBoxes(self) -> None:
        """
        An instance and its boxes die: another tells each disconnected, once, within 30 s, and refuses what must not
        wait.
        """
        dying, living = self.gateway("dying"), self.gateway("living")
        boxes = self.fleet([dying], "--boxes=50", "--stay")
        self.until(lambda: len(self.present()) == 50, 20, "all are there")
        boxes.kill()
        dying.kill9()
        died = time.monotonic()
        self.send(asset=assets(1)[0], id="now-or-never", no_queue=True)
        self.producer.flush(10)
        self.until(lambda: not self.present(), 30, "all are told gone")
        self.assertGreater(time.monotonic() - died, 10, "nobody waited for the lease")
        time.sleep(4)
        gone = Counter(event.asset for event in self.events(self.topics.presences) if event.presence.type == GONE)
        self.assertEqual(gone, Counter(assets(50)))
        ((status,),) = self.finals().values()
        self.assertEqual(status.message_status.status, cloudnext_pb2.DELIVERY_STATUS_REFUSED)
        self.assertEqual(living.terminate(), 0)

    def test_killedAndStartedAgain(self) -> None:
        """
        The only instance is killed, and starts again under its id: it tells those that did not come back, and the
        others are told as reconnected.
        """
        gateway = self.gateway("alone")
        staying = self.fleet([gateway], "--boxes=20", "--stay", "--reconnect-delay=0.2")
        leaving = self.fleet([gateway], "--boxes=20", "--stay", "--first-asset=450000000000001")
        self.until(lambda: len(self.present()) == 40, 20, "all are there")
        leaving.kill()
        gateway.kill9()
        gateway.start()
        self.until(lambda: self.present() == set(assets(20)), 35, "those that left are told gone")
        time.sleep(4)
        events = self.events(self.topics.presences)
        kinds = Counter((event.asset[:2], event.presence.type) for event in events)
        self.assertEqual(kinds["45", GONE], 20)
        self.assertEqual(kinds["35", GONE], 0)
        self.assertEqual(kinds["35", cloudnext_pb2.PRESENCE_TYPE_RECONNECT], 20)
        staying.send_signal(signal.SIGTERM)
        staying.wait(20)
        self.assertEqual(gateway.terminate(), 0)
