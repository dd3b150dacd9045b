"""
The contracts between the parts of the gateway, and with plugins.

Everything that may wait gives a Deferred. Nothing here may block the reactor's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from binaryserver.model import (
    BoxKey,
    Claim,
    DownlinkMessage,
    Draw,
    Erased,
    FingerprintUpdate,
    LinkState,
    MailboxEntry,
    MailboxLimits,
    MarkUpdate,
    MqttSession,
    Orphan,
    Progress,
    Put,
    Record,
    Renewal,
    StoredRecord,
    StreamMark,
    Take,
)

if TYPE_CHECKING:
    from twisted.internet.protocol import Factory

    from binaryserver.directory.records import Account, Box, Change
    from binaryserver.gateway import Gateway
    from binaryserver.plugins import BackEndContext
    from binaryserver.proto.md30_pb2 import TrackBatch
    from binaryserver.session.boxrecords import BoxEvent, BoxPage, BoxQuery, BoxRecord, RefusalNote


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
    A protocol that boxes speak. A plugin; C{--listen NAME=ENDPOINT} makes it listen (for those that come with the
    gateway, C{--NAME ENDPOINT}).
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

    def start(inbox: IInbox) -> Deferred[None]:
        """
        Begin to hear what the others say. Fails with L{StoreUnavailable}.
        """

    def stop() -> Deferred[None]:
        """
        Hear and say no more. What was asked and is not answered yet never fires.
        """

    def handOver(incarnation: str, box: BoxKey, linkEpoch: int) -> Deferred[tuple[StreamMark, ...] | None]:
        """
        Tell another instance that a box is ours as of C{linkEpoch}. Fires with its marks once it has closed its link,
        nothing of the box is in flight there any more, and the session store has its fingerprints; with L{None} once
        that incarnation is known to be dead. Does not time out by itself; can be cancelled.
        """

    def wake(incarnation: str, boxes: Sequence[BoxKey]) -> None:
        """
        Tell another instance that there is mail for boxes whose links it holds. May get lost.
        """

    def disconnect(incarnation: str, box: BoxKey, linkEpoch: int) -> Deferred[bool | None]:
        """
        Have another instance close a box's link of that epoch, as an operator asks. Fires with whether it had it;
        L{None}: that incarnation is known to be dead. Does not time out by itself; can be cancelled.
        """


class IInbox(Interface):
    """
    What an instance does for its peers.
    """

    def handOver(box: BoxKey, linkEpoch: int) -> Deferred[tuple[StreamMark, ...]]:
        """
        As L{IPeers.handOver}, at the instance that is asked.
        """

    def wake(boxes: Sequence[BoxKey]) -> None:
        """
        There is mail for these boxes.
        """

    def disconnect(box: BoxKey, linkEpoch: int) -> bool:
        """
        As L{IPeers.disconnect}, at the instance that is asked.
        """

    def wakeAll() -> None:
        """
        Something that was to be heard may have been lost: there may be mail for any box.
        """


class ILanes(Interface):
    """
    What an L{IBus} provides beside it if not all records of one partition wait for the same: whoever gathers flushes
    gathers one a lane, so that no record waits for what only others need.
    """

    def laneOf(key: bytes) -> Hashable:
        """
        The lane of a key's records, at once. It may change while the bus is up. Never raises.
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

    def erase(key: bytes) -> Deferred[int | None]:
        """
        Remove the records of a key from all topics, those published before this call at least, for good: no file holds
        their bytes any more. Readers and consumers go on with what is left; no offset is given twice. Needs L{start}.

        @return: fires with how many records were removed; L{None}: this bus keeps records for as long as it was told
            to, and cannot remove those of one key. Fails with L{BusError}: maybe not all are removed
        """

    def openReader(topics: Sequence[str], fromStart: bool) -> Deferred[IBusReader]:
        """
        Read topics back, from their first record or from their end as of now. Needs L{start}.
        """

    def openConsumer(topics: Sequence[str], group: str) -> Deferred[IBusConsumer]:
        """
        Join a consumer group: each partition of the topics is read by one of its members at a time, from where the
        group last committed, or from the first record if it never did. Needs L{start}. Fires once the consumer may be
        read; its partitions may come later, and go when other members come.
        """


class IBusConsumer(Interface):
    """
    A member of a consumer group. Records of a partition come in order; after a change of the group, or a crash, those
    not committed come again, to whichever member has the partition then.
    """

    lag: int | None = Attribute(
        "How many records stand in its partitions behind those that it has given out, as far as is known at once, "
        "without asking anybody; L{None}: that is not known. Others' records in the same partitions may count."
    )

    def read(limit: int) -> Deferred[list[StoredRecord]]:
        """
        Fires with 1 to C{limit} records as soon as there are some, or with none after about half a second without.
        One call at a time. Goes on by itself once a bus that was away is back; fails with L{BusError} when this
        consumer is of no more use: close it, and open another.
        """

    def commit(offsets: Mapping[tuple[str, int], int]) -> Deferred[None]:
        """
        What stands before these offsets is done with: C{(topic, partition)} to the offset of the next record to read.
        Fires once noted; durable within about a second, and with L{close}. Partitions that are another member's by now
        are passed over. Fails with L{BusError}.
        """

    def close() -> Deferred[None]:
        """
        Leave the group, so that others need not wait for a timeout to take its partitions; what was committed is
        durable then, if the bus can be reached. A L{read} under way fires with no records.
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

    Each method is one atomic step for each box, message or incarnation named in it, whoever else calls at the same
    time; those that take several cost one round trip. All but L{start} and L{peers} fail with L{StoreError}, of which
    L{StoreUnavailable} says that the store cannot be reached: it is then not known whether the step was taken (of
    L{StoreNotAsked} it is: not), and every method may be called again with the same arguments.
    """

    def start() -> Deferred[None]:
        """
        Open or connect. Fails with L{ConfigError} or L{StoreUnavailable}.
        """

    def stop() -> Deferred[None]:
        """
        Write what was handed over, then release everything.
        """

    def peers(incarnation: str) -> IPeers | None:
        """
        How C{incarnation} reaches the other instances through this store; L{None}: this store offers no way.
        """

    # Incarnations.

    def leaseWorker(incarnation: str, wanted: int | None = None) -> Deferred[int]:
        """
        Register an incarnation as alive and lease it a worker number, 0 to 16383, that no other live incarnation has:
        the last 14 bits of ids. Also revives one that was declared dead. A number stays its instance's: a new
        incarnation takes it over from the old one, which is dead from then on.

        @param wanted: the number to give if it is free: the one that it had before the store lost its memory
        """

    def renew(incarnation: str) -> Deferred[Renewal]:
        """
        Say that it is alive. Anything but C{renewed} changes nothing. C{superseded}: a newer incarnation of its
        instance was registered, whatever else is known of it.
        """

    def bury(leaseMs: int) -> Deferred[list[str]]:
        """
        Declare dead each incarnation that has not renewed for more than C{leaseMs}, by the store's own clock.

        @return: fires with every incarnation that is dead (declared so now or before, or because a newer one of its
            instance was registered) and still owns boxes that are C{connected}
        """

    def isDead(incarnation: str) -> Deferred[bool]:
        """
        Whether it was declared dead, or a newer incarnation of its instance was registered, or it gave its lease back.
        Of one that it never heard of a store says that it is dead.
        """

    def resign(incarnation: str) -> Deferred[None]:
        """
        It ends, and holds no link any more: its lease is given back.
        """

    # Ownership.

    def claim(
        box: BoxKey, incarnation: str, protocol: str, peer: str, nowMs: int, clean: bool, attempt: str, most: int = 0
    ) -> Deferred[Claim]:
        """
        Take a box for a new link: read what is there, give the next link epoch (C{max(last + 1, nowMs -
        EPOCH_2010_MS)}), make C{incarnation} its owner, not listening yet. C{clean} forgets the MQTT session.

        Called again with the C{attempt} of the box's latest claim, it changes nothing and answers with the same epoch
        and the same previous owner: the first answer was lost, and whom to ask for the box's tracks must not be.

        Of an incarnation that is known to be dead (L{renew} would say C{declaredDead} or C{superseded}) it fails with
        L{StoreError} and changes nothing: the claim of one that died may arrive late, and whoever holds the box by then
        would not hear of it. One that the store never heard of may claim.

        @param attempt: drawn for each link; a few characters of ASCII
        @param protocol: C{"md30"} or C{"md21"}
        @param peer: the peer's IP address
        @param most: how many boxes of the account may be C{connected}, over all instances; 0: any number. If so many
            are, and this box is none of them, it fails with L{AccountFull} and changes nothing. (Boxes of a dead
            incarnation count until they are adopted and released.)

        That it takes a C{connected} box from its owner is remembered as an event of the box, C{takenOver}.
        """

    def release(box: BoxKey, linkEpoch: int, nowMs: int, event: BoxEvent | None = None) -> Deferred[bool]:
        """
        The link of that epoch is gone. Fires with whether it was still the box's latest; if not, nothing is changed.

        @param event: to be remembered of the box: why it is gone
        """

    def restore(incarnation: str, links: Sequence[LinkState]) -> Deferred[list[bool]]:
        """
        Write again what an owner knows of its links: after the store lost its memory, or when others took it for dead.

        @return: fires with, for each, whether it is (again) the box's latest link. If the store has a higher epoch for
            the box, or the same one with another owner, it is not, and of that box only the marks are merged.
        """

    def adopt(dead: str, incarnation: str, nowMs: int, limit: int, attempt: str) -> Deferred[list[Orphan]]:
        """
        Take over boxes that C{dead} still owns as C{connected}, to tell that they are gone; none, if C{dead} lives
        (again, L{isDead}). Each gets its next link epoch and C{incarnation} as its owner, stays C{connected} and does
        not listen. Whoever adopted a box tells, and then calls L{release}: if it dies before, another adopts the box
        from it.

        Called again with the same C{attempt}, it answers with what that attempt took and C{incarnation} still has by
        it (not released, claimed, restored or adopted since), whether or not C{dead} lives, and takes nothing more:
        the first answer was lost. Where there is nothing of the kind, it is a first call.

        @param attempt: drawn for each call, and again once that was answered; a few characters of ASCII
        """

    def accounts(asset: str) -> Deferred[tuple[str, ...]]:
        """
        The accounts under which a box of that asset was ever claimed, in the order of their names.
        """

    # For operators.

    def listBoxes(query: BoxQuery, after: BoxKey | None, limit: int) -> Deferred[BoxPage]:
        """
        Boxes that were ever claimed, by account and then asset, in the order of their names' ASCII codes. A call looks
        at no more than C{limit} boxes, whether they are asked for or not: its page may be shorter, or empty, though
        there are more.

        @param after: only boxes behind that name, which need not exist; L{None}: from the first one
        """

    def boxRecord(box: BoxKey) -> Deferred[BoxRecord | None]:
        """
        All that is kept of a box; L{None}: nothing is, or nothing but its last epoch.
        """

    def links(account: str) -> Deferred[int]:
        """
        How many boxes of an account are C{connected}, as L{claim} counts them.
        """

    def noteRefusals(refusals: Sequence[RefusalNote]) -> Deferred[None]:
        """
        Remember that boxes were not let in, behind what else is remembered of them (L{KEPT_EVENTS}). Of names that
        are no box to the directory and were never claimed, those refused last are remembered (L{MOST_STRANGERS}), so
        that made-up names do not fill the store.
        """

    def refusedAs(asset: str) -> Deferred[tuple[str, ...]]:
        """
        The accounts under which L{noteRefusals} remembers that asset, in the order of their names.
        """

    # Limits, and what is kept for how long.

    def draw(draws: Sequence[Draw]) -> Deferred[list[float]]:
        """
        Take from the accounts' budgets, over all instances: a bucket for each (account, kind) holds at most C{rate *
        DRAW_BURST} tokens (C{least} if that is more), is full when it is first asked for, and fills by C{rate} a second
        of the store's own clock.

        @return: fires with what was granted of each, C{least} to C{wanted} or 0; whatever is granted is spent
        """

    def erase(box: BoxKey) -> Deferred[Erased]:
        """
        Remove everything that is kept of a box (session, marks, fingerprints, events, mailbox with what waits in it)
        but its last link epoch, which must not go back. A box that is C{connected} is left as it is.
        """

    def purge(beforeMs: int, limit: int) -> Deferred[int]:
        """
        Remove everything, as L{erase} does, of boxes that are not C{connected}, were seen last before C{beforeMs}, and
        have no mail: neither messages nor ids of finished ones that are remembered. A last link epoch goes, too, once
        the time that it stands for is a day and more before C{beforeMs}: a clock that is right to the day gives a
        higher one. Names of no box (L{noteRefusals}) go that were refused last before C{beforeMs}; they do not count.
        Called again with the rest.

        @param limit: how many at most
        @return: fires with how many went: C{limit}, there may be more. A last link epoch that goes by itself counts
        """

    # Tracks and MQTT.

    def commitMarks(marks: Sequence[MarkUpdate]) -> Deferred[None]:
        """
        Raise marks, each merged by maximum with what is there (of C{committed}, and of C{latest}): never lowers one.
        A box keeps the L{KEPT_STREAMS} streams that were raised last. Fires once written for good.
        """

    def marks(box: BoxKey) -> Deferred[tuple[StreamMark, ...]]:
        """
        As in L{Claim.marks}.
        """

    def fingerprints(box: BoxKey) -> Deferred[bytes]:
        """
        The fingerprints (8 bytes each) of those of the box's tracks that were committed last, the oldest first: of
        boxes whose protocol does not number tracks.
        """

    def commitFingerprints(updates: Sequence[FingerprintUpdate], window: int) -> Deferred[None]:
        """
        Append fingerprints behind those that are there, and keep the last C{window} of each box. With what those that
        are there end with, what is appended may begin: of a call whose answer was lost. It is not there twice then.
        Fires once written for good.
        """

    def saveMqtt(box: BoxKey, linkEpoch: int, session: MqttSession | None, isListening: bool) -> Deferred[bool]:
        """
        Keep a box's MQTT session, or forget it (L{None}), and note whether it is subscribed to its downlink. Fires with
        whether it was written: not, when C{linkEpoch} is not the box's latest.
        """

    # Mailboxes.

    def putMessages(messages: Sequence[DownlinkMessage], limits: MailboxLimits, nowMs: int) -> Deferred[list[Put]]:
        """
        Put messages into their boxes' mailboxes, in their order. One whose id stands in the mailbox, or is remembered
        as finished, changes nothing. Some enter with their final status chosen, their payload left out: C{rejected}
        (with L{DownlinkMessage.rejected} as its reason), C{expired} (its time is over), C{refused} with C{BOX_AWAY}
        (C{noQueue}, and the box's owner is not connected, not listening, or known to be dead) or C{MAILBOX_FULL} (the
        entries without a final status would be more than C{limits}).
        """

    def takeMessages(takes: Sequence[Take], nowMs: int) -> Deferred[list[list[MailboxEntry] | None]]:
        """
        Give what is to be sent next over a box's present link: entries behind C{after}, by their sequence, that the box
        has not acked, whose final status is not chosen and whose time is not over; each is noted as attempted once
        more. A C{noQueue} one that was never attempted is left out if the link came after it was put, or if it was put
        more than L{NO_QUEUE_MS} ago.

        @return: fires with a list for each; L{None}: C{linkEpoch} is not the box's latest, nothing was noted
        """

    def progressMessages(heard: Sequence[Progress]) -> Deferred[list[MailboxEntry | None]]:
        """
        Note what was heard of messages. Without C{Progress.final}: the box acked it; this chooses C{acked} unless
        C{wantAck}. With it: this chooses that, unless one is chosen. What is bound to another number of attempts
        (C{Progress.attempts}) changes nothing.

        @return: fires with, for each, the entry as it stands now if this call changed it (C{deliveredAt} set for the
            first time, or the final status chosen), else L{None}
        """

    def removeMessages(finished: Sequence[tuple[BoxKey, str]]) -> Deferred[None]:
        """
        The final statuses of these messages (by their ids) are published: their entries go, if their final status is
        chosen; the ids are remembered until their expiry and a day more (L{REMEMBERED_MS}).
        """

    def dueMessages(nowMs: int, limit: int) -> Deferred[list[MailboxEntry]]:
        """
        What nobody has looked after: chooses C{expired} for entries whose time is over, and C{refused} with C{BOX_AWAY}
        for C{noQueue} ones not attempted L{NO_QUEUE_MS} after they were put, and gives those, and entries whose final
        status was chosen L{RETRY_MS} ago or longer and which are still there. Each that is given is not given again,
        to whomever, for L{RETRY_MS}.
        """

    def mailbox(box: BoxKey) -> Deferred[list[MailboxEntry]]:
        """
        Everything that stands in a box's mailbox, by its sequence.
        """

    def mailboxMessages() -> Deferred[int]:
        """
        How many entries stand in the mailboxes of all boxes, those included whose final status is chosen.
        """


class IDirectorySource(Interface):
    """
    Where accounts and boxes are kept. It is asked as seldom as can be: L{binaryserver.directory.cache.Directory} stands
    before it.
    """

    requiresLoopback: bool = Attribute("Lets anybody in: refused unless every listener is a loopback address.")
    defaultAccount: str = Attribute("The account of a box that names none; empty: such a box is refused.")

    def start(changed: Callable[[Change], None]) -> Deferred[None]:
        """
        Read or connect. Fails with L{ConfigError}: it cannot be used as it is. A service that is away does not fail the
        start: boxes come back long before everything else does.

        @param changed: to be called whenever the source notices by itself that something is not as it was
        """

    def stop() -> Deferred[None]:
        """
        Release everything. What was asked and is not answered fails with L{DirectoryUnavailable}.
        """

    def account(name: str) -> Deferred[Account | None]:
        """
        Look up an account, with its fields and channels. Fires with L{None} if there is none of that name. Fails with
        L{DirectoryUnavailable}: the source cannot be reached or says what cannot be understood, after as many tries as
        it makes by itself.

        @param name: L{binaryserver.transcode.events.isName} says that it may be one
        """

    def box(account: str, asset: str) -> Deferred[Box | None]:
        """
        Look up a box of an account. Fires and fails as L{account}.
        """
