"""
The contracts between the parts of the gateway, and with plugins.

Everything that may wait gives a Deferred. Nothing here may block the reactor's thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from binaryserver.model import BoxKey, Claim, MarkUpdate, MqttSession, Record, StoredRecord, StreamMark

if TYPE_CHECKING:
    from twisted.internet.protocol import Factory

    from binaryserver.gateway import Gateway
    from binaryserver.plugins import BackEndContext
    from binaryserver.proto.md30_pb2 import TrackBatch


class IBackEndPlugin(Interface):
    """
    A back end that an option names by its scheme. Found through C{twisted.plugin} as one of the subinterfaces below;
    the object is light, L{create} imports what is heavy.
    """

    scheme: str = Attribute("What stands before the first colon of the option's value, e.g. C{'kafka'}.")
    description: str = Attribute("One line for C{--help}: the form of the value and what it is for.")

    def create(spec: str, context: BackEndContext) -> object:
        """
        Make the back end; open nothing yet.

        @param spec: the option's whole value, e.g. C{"sqlite:var/bus.sqlite"}
        @raise ConfigError: C{spec} cannot be understood. The message names what is wrong with it.
        """


class IBusPlugin(IBackEndPlugin):
    """
    Creates an L{IBus}.
    """


class ISessionStorePlugin(IBackEndPlugin):
    """
    Creates an L{ISessionStore}.
    """


class IDirectoryPlugin(IBackEndPlugin):
    """
    Creates an L{IDirectorySource}.
    """


class IBoxProtocol(Interface):
    """
    A protocol that boxes speak. A plugin; C{--NAME ENDPOINT} makes it listen.
    """

    name: str = Attribute("Lower case, e.g. C{'md30'}.")

    def buildFactory(gateway: Gateway) -> Factory:
        """
        The factory of its links. Called once the gateway's services have started.
        """


class IEventCodec(Interface):
    """
    A form in which boxes send their tracks. A plugin; it brings its own MD30 topics.
    """

    shortTopic: str = Attribute("E.g. C{'t'}.")
    longTopic: str = Attribute("What follows C{boxes/ASSET/}, e.g. C{'tracks'}.")
    threadedAbove: int = Attribute("A payload of more bytes is decoded in a thread, so that other links do not wait.")

    def decode(payload: bytes) -> tuple[TrackBatch, int]:
        """
        Give the batch, and how many unknown fields were ignored.

        @raise binaryserver.errors.RejectedData: the payload cannot be decoded
        """


class IPeers(Interface):
    """
    The other instances that share the session store.
    """

    def handOver(incarnation: str, box: BoxKey, linkEpoch: int) -> Deferred[tuple[StreamMark, ...] | None]:
        """
        Tell another instance that a box is ours as of C{linkEpoch}. Fires with its marks once it has closed its link
        and nothing of the box is in flight there any more; with L{None} once that incarnation is known to be dead. Does
        not time out by itself; can be cancelled.
        """


class IBus(Interface):
    """
    The log that data goes to and comes from: topics of partitions of records.
    """

    maxRecord: int = Attribute("The most bytes that key, value and headers of one record may have together.")
    pendingBytes: int = Attribute("Bytes of records handed to L{publish} whose Deferred has not fired yet.")

    def start() -> Deferred[None]:
        """
        Connect, and check that every topic handed over in the context exists.

        Fires once L{publish} will work. Fails with L{ConfigError} (a topic is missing: the message says how to make
        it; the file cannot be opened) or L{BusUnavailable} (not reachable within the start timeout).
        """

    def stop() -> Deferred[None]:
        """
        Take no more, let what is pending end, and release everything. What has not ended after C{context.stopTimeout}
        seconds fails with L{BusError}. Every Deferred handed out has fired when this one does.
        """

    def partitionFor(topic: str, key: bytes) -> int:
        """
        The partition of a key: murmur2 as Java's default partitioner, C{(murmur2(key) & 0x7fffffff) % partitions}.
        Known without waiting once L{start} has fired; constant while the bus is up.
        """

    def publish(topic: str, partition: int, records: Sequence[Record]) -> Deferred[None]:
        """
        Append a flush to one partition, in order, behind what was published to it before.

        Fires with L{None} once all records are durable: on all in-sync replicas, or in a synced commit (G1). Fails with
        a L{BusError} when that is not known to be so; records of it may or may not be there. Flushes to one partition
        commit in the order of their L{publish} calls; those of different partitions are independent. Buffers as long
        as it must: limits are the caller's, by L{pendingBytes}. Never raises.
        """

    def createTopics(topics: Sequence[str], partitions: int, replication: int) -> Deferred[list[str]]:
        """
        Make the topics that are missing. May be called without L{start}. Fires with the names of those that it made.
        """

    def openReader(topics: Sequence[str], fromStart: bool) -> Deferred[IBusReader]:
        """
        Read topics back, from their first record or from their end as of now. Needs L{start}.
        """


class IBusReader(Interface):
    """
    Reads records of some topics; in order within each partition.
    """

    caughtUp: bool = Attribute("Everything that stood in the topics when the reader was opened has been given out.")

    def read(limit: int) -> Deferred[list[StoredRecord]]:
        """
        Fires with 1 to C{limit} records as soon as there are some, or with none after about half a second without.
        One call at a time.
        """

    def close() -> Deferred[None]:
        """
        Release what it holds. A L{read} under way fires with no records.
        """


class ISessionStore(Interface):
    """
    What is known of boxes beyond a link and beyond a process.
    """

    def start() -> Deferred[None]:
        """
        Open or connect. Fails with L{ConfigError} or L{StoreUnavailable}.
        """

    def stop() -> Deferred[None]:
        """
        Write what was handed over, then release everything.
        """

    def leaseWorker(incarnation: str) -> Deferred[int]:
        """
        Lease a worker number, 0 to 16383, that no other live incarnation has: the last 14 bits of ids.
        """

    def claim(box: BoxKey, incarnation: str, protocol: str, peer: str, nowMs: int, clean: bool) -> Deferred[Claim]:
        """
        Take a box for a new link, in one atomic step: read what is there, give the next link epoch
        (C{max(last + 1, nowMs - EPOCH_2010_MS)}), make C{incarnation} its owner. C{clean} forgets the MQTT session.

        @param protocol: C{"md30"} or C{"md21"}
        @param peer: the peer's IP address
        """

    def release(box: BoxKey, linkEpoch: int, nowMs: int) -> Deferred[bool]:
        """
        The link of that epoch is gone. Fires with whether it was still the box's latest; if not, nothing is changed.
        """

    def commitMarks(marks: Sequence[MarkUpdate]) -> Deferred[None]:
        """
        Raise marks, each merged by maximum with what is there (of C{committed}, and of C{latest}): never lowers one.
        A box keeps the L{KEPT_STREAMS} streams that were raised last. Fires once written for good.
        """

    def marks(box: BoxKey) -> Deferred[tuple[StreamMark, ...]]:
        """
        As in L{Claim.marks}.
        """

    def saveMqtt(box: BoxKey, linkEpoch: int, session: MqttSession | None) -> Deferred[bool]:
        """
        Keep a box's MQTT session, or forget it (L{None}). Fires with whether it was written: not, when C{linkEpoch} is
        not the box's latest.
        """


class IDirectorySource(Interface):
    """
    The static information: who may come in, and what the numbers of their fields mean.
    """

    requiresLoopback: bool = Attribute("Lets anybody in: refused unless every listener is a loopback address.")

    def start() -> Deferred[None]:
        """
        Read or connect. Fails with L{ConfigError}.
        """

    def stop() -> Deferred[None]:
        """
        Release everything.
        """

    def admit(account: str, asset: str, password: bytes | None, certified: bool) -> Deferred[str | None]:
        """
        May this box come in?

        @param account: as the box gave it; empty if it gave none
        @param certified: a client certificate proved account and asset
        @return: fires with the account that the box belongs to, or L{None}: refused
        """

    def fieldName(account: str, number: int) -> tuple[str, str] | None:
        """
        Name and type (C{"int"}, C{"bool"}, C{"string"}, C{"double"}, C{"bytes"}) of a numbered field of a track;
        L{None} if the account has none of that number. At once: what is not known yet is not known.
        """
