"""
What an instance tells of itself: read from what its parts count anyway, when somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from binaryserver.endpoints.door import DoorCounts
from binaryserver.md21.udpway import UdpCounters
from binaryserver.metrics.families import PREFIX, counter, counters, gauge, gauges, histogram
from binaryserver.metrics.links import LinkCensus, bounded
from binaryserver.metrics.observed import Calls
from binaryserver.session.reasons import Reason

if TYPE_CHECKING:
    from binaryserver.gateway import Gateway

_REFUSALS = [reason.value for reason in Reason if reason.name.startswith("authFailed")]


class GatewayCollector(Collector):
    """
    Of one instance.
    """

    def __init__(
        self,
        gateway: Gateway,
        door: DoorCounts,
        lag: Callable[[], int | None],
        mailboxMessages: Callable[[], int],
    ) -> None:
        """
        @param lag: of the consumer of C{downlink}, records; L{None}: not known
        @param mailboxMessages: what stands in the mailboxes of all boxes, as of the last look
        """
        self._gateway = gateway
        self._door = door
        self._lag = lag
        self._mailboxMessages = mailboxMessages

    def collect(self) -> Iterable[Metric]:
        """
        See L{Collector.collect}.
        """
        yield from self._links()
        yield from self._counted()
        yield from self._traffic()
        yield from self._atTheDoor()
        yield from self._bus()
        yield from self._downlink()
        yield from self._backEnds()

    def _links(self) -> Iterable[Metric]:
        gateway = self._gateway
        now = gateway.clock.seconds()
        census = LinkCensus(gateway.registry.links, now)
        links = GaugeMetricFamily(PREFIX + "links", "Boxes that are connected here.", labels=("protocol", "account"))
        boxes = bounded(gateway.registry.openLinks)
        protocols = dict.fromkeys((*gateway.observed.traffic, *(protocol for protocol, _ in boxes)))
        for protocol in protocols:
            byAccount = {account: count for (one, account), count in boxes.items() if one == protocol}
            # Without any there is one sample all the same, so that sums are 0 and not nothing.
            for account, count in (byAccount or {"": 0}).items():
                links.add_metric((protocol, account), count)
        yield links
        yield gauge(
            "links_arriving",
            "Links whose box is not here yet, or that are ending.",
            len(gateway.registry.links) - sum(boxes.values()),
        )
        yield gauges("links_paused", "Links that are not read, by what they wait for.", "cause", census.paused)
        since = gateway.uplink.oldestSince()
        age = max(0.0 if since is None else now - since, census.heldFor)
        yield gauge("unacked_age_seconds", "Age of the oldest data that is not durable yet.", age)

    def _counted(self) -> Iterable[Metric]:
        gateway, counted = self._gateway, self._gateway.counters
        yield counter("connects", "Links that became a box's.", counted.connects)
        yield counter("refusals", "CONNECTs and headers that were answered with a refusal.", counted.refusals)
        reasons = {**dict.fromkeys(_REFUSALS, 0), **counted.refusalReasons}
        yield counters("refusals_by_reason", "Of those, the ones that were the peer's fault.", "reason", reasons)
        yield counter("refusals_untold", "Refusals without a presence: there were too many.", gateway.refusals.untold)
        yield counter("violations", "Links closed as the peer broke the protocol or was too slow.", counted.violations)
        yield counter("tracks", "Tracks sent to the bus.", counted.tracks)
        yield counter("messages", "Messages of boxes sent to the bus.", counted.messages)
        yield counter("duplicates", "Tracks and messages acked and not published again.", counted.duplicates)
        yield counter("holes", "Batches and messages before which indices are missing.", counted.holes)
        yield counter("unindexed", "Tracks without an index.", counted.unindexed)
        yield counter("rejects", "Records sent to the topic rejects.", counted.rejects)
        yield counter("unknown_names", "Names in JSON that no schema knows.", counted.unknownNames)
        yield counter("foreign_wills", "Last wills that were dropped.", counted.foreignWills)
        yield counter("orphans", "Boxes of dead instances told disconnected here.", counted.orphans)
        yield counter("recheck_ended", "Links ended as the directory changed.", gateway.recheck.ended)
        yield counter("purged_boxes", "Boxes forgotten by --session-retention.", gateway.retention.purged)
        yield gauge("draining", "1: it takes no new links and is about to stop.", gateway.isDraining)
        yield histogram("ack_seconds", "From a PUBLISH or block to its ack.", gateway.observed.acks)
        yield histogram(
            "transcode_seconds",
            "From the box's form to the cloud's, of what one read brought.",
            gateway.observed.transcoding,
        )

    def _traffic(self) -> Iterable[Metric]:
        traffic = self._gateway.observed.traffic
        label = "protocol"
        sums = {
            ("received_bytes", "Bytes of boxes, without TLS."): {name: one.bytesIn for name, one in traffic.items()},
            ("sent_bytes", "Bytes to boxes, without TLS."): {name: one.bytesOut for name, one in traffic.items()},
            ("received_packets", "Packets, or PDUs, of boxes that brought something to do."): {
                name: one.packetsIn for name, one in traffic.items()
            },
            ("received_controls", "Pings, SUBSCRIBEs and UNSUBSCRIBEs of boxes."): {
                name: one.controls for name, one in traffic.items()
            },
        }
        for (name, help_), values in sums.items():
            yield counters(name, help_, label, values)
        udp = self._gateway.md21.udp
        datagrams = (UdpCounters() if udp is None else udp.counters).asDict()
        yield counters("md21_datagrams", "Datagrams of MD21, by what became of them.", "what", datagrams)

    def _atTheDoor(self) -> Iterable[Metric]:
        door = self._door
        yield gauge("connections", "Connections of boxes, those in a handshake included.", door.links)
        yield gauge("handshakes_open", "Connections in a TLS handshake or before their PROXY header.", door.handshakes)
        refused = {
            "max_links": door.refusedLinks,
            "address_rate": door.refusedAddress,
            "slow_handshake": door.slowHandshakes,
        }
        yield counters("connections_refused", "Connections ended before they could say anything.", "limit", refused)
        yield counter("listener_pauses", "Times that a listener accepted no more for --max-handshakes.", door.pauses)
        yield gauge("password_checks_open", "Secrets that are being checked or wait.", self._gateway.passwords.waiting)

    def _bus(self) -> Iterable[Metric]:
        gateway = self._gateway
        uplink = gateway.uplink
        yield gauge("producer_pending_bytes", "Bytes that the bus does not have for good yet.", uplink.pendingBytes)
        yield gauge("producer_window_bytes", "--global-window: beyond it no link is read.", gateway.limits.globalWindow)
        yield counter("producer_flushes", "Flushes of tracks and messages that the bus was handed.", uplink.flushes)
        yield counter("producer_errors", "Of those, how many it did not take.", uplink.failures)
        untold: dict[str, Any] = {
            "presences": gateway.announcer,
            "rejects": gateway.rejects,
            "statuses": gateway.statuses,
        }
        waiting = {topic: one.waiting for topic, one in untold.items()}
        yield gauges("untold", "Events of the gateway's own that are not durable yet.", "topic", waiting)
        failing = {topic: int(one.isFailing) for topic, one in untold.items()}
        yield gauges("untold_failing", "1: the bus did not take the last of them.", "topic", failing)
        yield gauge("partial_packets_bytes", "Memory given to packets that are not whole.", gateway.memory.used)

    def _downlink(self) -> Iterable[Metric]:
        gateway = self._gateway
        lag = self._lag()
        yield gauge("consumer_lag", "Records of downlink not read yet, of its partitions here.", lag or 0)
        yield gauge("consumer_lag_known", "0: the bus does not tell, or nothing was read yet.", lag is not None)
        yield counter("downlink_messages", "Messages for boxes that were consumed.", gateway.counters.downlinkMessages)
        yield counters("finals", "Final statuses of messages.", "status", gateway.counters.finals)
        yield gauge("mailbox_messages", "What stands in the mailboxes of all boxes.", self._mailboxMessages())
        yield histogram(
            "mailbox_wait_seconds", "From a message's mailbox to its final status.", gateway.observed.mailWait
        )

    def _backEnds(self) -> Iterable[Metric]:
        gateway, observed = self._gateway, self._gateway.observed
        yield from _calls("store", "session store", observed.store)
        yield gauge("store_unwritten", "Marks and fingerprints it does not have yet.", gateway.uplink.unwritten)
        yield gauge("store_releases", "Ends of links it has not noted yet.", gateway.registry.releases.waiting)
        yield from _calls("directory", "directory", observed.directory)
        counts, since = gateway.directory.counts, gateway.directory.failingSince
        answers = {"source": counts.lookups, "fresh": counts.hits, "stale": counts.staleHits}
        yield counters("directory_answers", "Lookups, by what answered.", "by", answers)
        yield counter("directory_changes", "Changes that it was told of.", counts.changes)
        stale = 0.0 if since is None else gateway.clock.seconds() - since
        yield gauge("directory_failing_seconds", "Since when its source does not answer; 0: it does.", stale)


def _calls(name: str, what: str, calls: Calls) -> Iterable[Metric]:
    yield histogram(f"{name}_seconds", f"Calls of the {what}.", calls.seconds)
    yield counters(f"{name}_calls", f"Calls of the {what} that have ended.", "call", calls.made)
    yield counter(f"{name}_failures", f"Calls that the {what} did not answer.", calls.failures)
