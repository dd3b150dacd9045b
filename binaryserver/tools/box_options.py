"""
The command line of C{binaryserver-box}.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from math import inf
from random import Random
from typing import Any, Final, NoReturn

from binaryserver.errors import ConfigError
from binaryserver.md21.datagrams import MAX_QUEUED_BYTES, MAX_SENT
from binaryserver.md21.values import MAX_TRACKS, WantAck
from binaryserver.tools.box_blocks import PATIENCE
from binaryserver.tools.box_endpoint import accessFor, inTurn
from binaryserver.tools.box_fleet import Fleet
from binaryserver.tools.box_inbox import REMEMBERED, AckChoice, Heard
from binaryserver.tools.box_md21 import DEFAULT_ACCOUNT
from binaryserver.tools.box_payload import PayloadForm
from binaryserver.tools.box_plan import BoxPlan, Md21Plan, Resend
from binaryserver.tools.box_store import STREAM_MAX, StateDirectory

PROGRAM: Final = "binaryserver-box"
DEFAULT_CONNECT: Final = {"md30": "tcp:127.0.0.1:1883", "md21": "tcp:127.0.0.1:2100"}
"""By protocol."""
DEFAULT_ASSET: Final = "350000000000001"
"""In the form of an IMEI."""
DEFAULT_PATIENCE: Final = 5.0
"""s until a box does something about what has no ack, where nothing else would make it."""
MAX_UDP_INFLIGHT: Final = MAX_QUEUED_BYTES // MAX_SENT
"""Blocks that can be under way in datagrams, whatever their size."""
CONNECTS_A_SECOND: Final = 1000
"""The pace of the first connects unless C{--ramp} sets another."""
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_WANT_ACKS: Final = {mode.name.lower().replace("_", ""): mode for mode in WantAck}
_OF_MD30: Final = ("qos", "json_topic", "stream", "no_index")
_OF_MD21: Final = ("want_ack", "tls", "udp", "lose_datagrams")
_MAX_SECRET: Final = 255


def countAssets(first: str, count: int) -> list[str]:
    """
    C{first} and those that come after it, counting up the digits at its end and keeping their width.

    @param first: e.g. C{"350000000000001"} or C{"box-001"}
    @raise ConfigError: it has no digits at its end to count with, or one would be no asset id
    """
    stem = first.rstrip("0123456789")
    digits = first[len(stem) :]
    if not digits and count > 1:
        raise ConfigError("--first-asset", f"{first!r} ends in no digits to count up {count} boxes with")
    assets = [f"{stem}{int(digits) + number:0{len(digits)}d}" for number in range(count)] if digits else [first]
    for asset in (first, assets[-1]):
        if not _NAME.fullmatch(asset):
            raise ConfigError("--first-asset", f"{asset!r} is not an asset id: 1 to 64 of A-Z a-z 0-9 . _ -")
    return assets


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(PROGRAM, message.removeprefix("argument "))


def _number(low: float, high: float, kind: type[int] | type[float] = int) -> Any:
    """
    @return: the C{type} of an option whose value lies between C{low} and C{high}
    """

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from error
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not between {low:g} and {high:g}")
        return value

    return parse


def _loss(text: str) -> tuple[float, int]:
    """
    The C{type} of a share that may be counted out: what gets lost by chance, and each of how many does instead.
    """
    if text.startswith("1/"):
        return 0.0, int(_number(2, 1_000_000)(text[2:]))
    return float(_number(0, 0.99, float)(text)), 0


def parser() -> argparse.ArgumentParser:
    """
    @return: the parser of the command line; it raises L{ConfigError} for a bad one
    """
    seconds = _number(0.001, 1e9, float)
    made = _Parser(
        prog=PROGRAM,
        allow_abbrev=False,
        description="Simulated boxes: each records tracks of a drive, brings them to a gateway and keeps them until "
        "they are acked; what messages come meanwhile, or with --stay, it prints and answers. Ends once all tracks are "
        "acked (status 0), or cannot be (status 1), and sums up.",
    )
    what = made.add_argument_group("what is brought, and where")
    what.add_argument(
        "--protocol",
        choices=["md30", "md21"],
        default="md30",
        help="what the boxes speak (default: md30; md21 is the legacy)",
    )
    what.add_argument(
        "--connect",
        metavar="ENDPOINT",
        action="append",
        help="the gateway: a Twisted client endpoint string, as tcp:HOST:PORT, tls:HOST:PORT (default: "
        f"{DEFAULT_CONNECT['md30']}, or {DEFAULT_CONNECT['md21']} for md21); given several times: several gateways, "
        "and a box's next connect goes to the next of them",
    )
    what.add_argument("--boxes", metavar="N", type=_number(1, 1_000_000), default=1, help="boxes (default: 1)")
    what.add_argument(
        "--tracks", metavar="N", type=_number(0, 100_000_000), default=10, help="tracks of each box (default: 10)"
    )
    what.add_argument(
        "--batch",
        metavar="N",
        type=_number(1, 1000),
        default=1,
        help=f"tracks a PUBLISH, or a block of MD21, which has {MAX_TRACKS} at most (default: 1)",
    )
    what.add_argument(
        "--rate",
        metavar="N",
        type=_number(1e-6, 1e6, float),
        help="tracks a second of each box (default: as fast as acks allow)",
    )
    what.add_argument(
        "--first-asset",
        metavar="ID",
        default=DEFAULT_ASSET,
        help="the first box; the others count up the digits at its end (default: %(default)s)",
    )
    what.add_argument(
        "--stay",
        metavar="S",
        nargs="?",
        type=seconds,
        const=inf,
        default=0.0,
        help="stay connected until S seconds after the start, also when all tracks are acked, or there are none "
        "(--tracks 0); without S: until SIGTERM or SIGINT",
    )
    what.add_argument(
        "--json", action="store_true", help="print messages, and then the sums, as one JSON object a line each"
    )
    what.add_argument("--quiet", action="store_true", help="do not print messages")
    what.add_argument("--timeout", metavar="S", type=seconds, help="end after S seconds, whatever is not acked")

    who = made.add_argument_group("who the boxes are")
    who.add_argument(
        "--account",
        metavar="NAME",
        help="user name (default: none, which the directory open: takes for dev; on MD21, where there has to be one: "
        f"{DEFAULT_ACCOUNT})",
    )
    who.add_argument("--password", metavar="TEXT", help="password of each box")
    who.add_argument("--cert", metavar="PATH", help="client certificate, PEM; {asset} in PATH stands for the asset")
    who.add_argument("--key", metavar="PATH", help="its key, PEM, likewise (default: in the same file)")
    who.add_argument("--ca", metavar="PATH", help="certificates to trust, PEM: a file, or a directory of .pem files")
    who.add_argument(
        "--tls",
        action="store_true",
        help="MD21: ask for TLS in a header without the password, check the gateway's certificate, and say all in a "
        "second header (with --connect tcp:HOST:PORT)",
    )

    how = made.add_argument_group("how they send")
    how.add_argument("--qos", type=int, choices=[0, 1, 2], default=1, help="MD30: of PUBLISHes (default: 1)")
    how.add_argument(
        "--inflight",
        metavar="N",
        type=_number(1, 10_000),
        default=20,
        help="the most PUBLISHes, at QoS 1 and 2, or blocks without an ack (default: 20)",
    )
    how.add_argument("--json-topic", action="store_true", help="MD30: JSON on topic tj instead of protobuf on t")
    how.add_argument(
        "--want-ack",
        choices=list(_WANT_ACKS),
        default="all30",
        help="MD21: what blocks ask for. none: no ack, and they are forgotten when they are sent; all0: an ack each; "
        "all10 to all300: likewise, and a block that has none after so many seconds is sent again (default: all30). A "
        "reconfiguretrk of the gateway's overrides it",
    )
    how.add_argument(
        "--udp",
        action="store_true",
        help="MD21: bring tracks by UDP, in blocks that fit into a datagram, where the gateway's headerack offers it; "
        "else by TCP",
    )
    how.add_argument(
        "--keep-alive", metavar="S", type=_number(0, 65535), default=60, help="seconds; 0: none (default: 60)"
    )
    how.add_argument(
        "--ramp",
        metavar="S",
        type=_number(0, 1e6, float),
        help=f"spread the first connects over S seconds (default: {CONNECTS_A_SECOND} connects a second)",
    )

    messages = made.add_argument_group(
        "messages from the cloud",
        "A box subscribes to its messages (topic d, QoS 1), acks each, drops repeats (those whose id, on MD21 the "
        f"server's, is among the last {REMEMBERED}), and tells whether payloads that are decimal numbers grow on their "
        "channel. A session that is still there after a reconnect (see --resend) is not subscribed again. On MD21 it "
        "gets them without asking.",
    )
    messages.add_argument(
        "--ack",
        choices=[choice.value for choice in AckChoice],
        default=AckChoice.OK.value,
        help="what its application answers, on topic m, where an answer is wanted (default: ok); on MD21 these are the "
        "messageacks ACK, BAD_CHANNEL, NACK, or none (a message whose sender wants no answer is acked all the same)",
    )
    messages.add_argument(
        "--no-messages", action="store_true", help="do not subscribe to messages; on MD21, refuse them as BAD_CHANNEL"
    )

    index = made.add_argument_group("what names the tracks", "On MD21 nothing does: an ack means the oldest block.")
    index.add_argument(
        "--stream",
        metavar="N",
        type=_number(1, STREAM_MAX),
        help="MD30: the stream of all boxes (default: each draws one); numbering goes on where the gateway's index is",
    )
    index.add_argument(
        "--no-index",
        action="store_true",
        help="MD30: do not read the index (default: read it after connecting, and drop all tracks up to it)",
    )
    index.add_argument(
        "--state", metavar="DIR", help="keep each box's stream, index and unacked tracks there for the next run"
    )

    bad = made.add_argument_group("bad network")
    bad.add_argument("--cut-every", metavar="S", type=seconds, help="cut each link after S seconds in the mean")
    bad.add_argument(
        "--cut-on-message",
        metavar="P",
        type=_number(0, 1, float),
        default=0.0,
        help="share of messages at which a box cuts its link, having them, before it acks them: they come again",
    )
    bad.add_argument(
        "--lose-acks",
        metavar="P",
        type=_loss,
        default=(0.0, 0),
        help="share of acks taken for lost: 0.5 is half of them by chance, 1/2 each second one of a box",
    )
    bad.add_argument(
        "--lose-datagrams",
        metavar="P",
        type=_number(0, 0.99, float),
        default=0.0,
        help="MD21: share of datagrams that get lost, each way",
    )
    bad.add_argument(
        "--ack-timeout",
        metavar="S",
        type=seconds,
        help="end the link and connect anew when an ack does not come within S seconds (default: never; "
        f"{DEFAULT_PATIENCE:g} with --lose-acks, on MD21 with --want-ack all0)",
    )
    bad.add_argument(
        "--resend",
        choices=[choice.value for choice in Resend],
        help="after a reconnect: the same PUBLISHes or blocks again (PUBLISHes with DUP, in the same session: CONNECT "
        "has CleanSession 0), or new ones cut from the store (PUBLISHes in a clean session, blocks at other "
        "boundaries; default: same for md30, new for md21)",
    )
    bad.add_argument(
        "--resend-after",
        metavar="S",
        type=seconds,
        help="instead: send what has no ack after S seconds again on the same link (default: never; "
        f"{DEFAULT_PATIENCE:g} with --qos 0; on MD21 as --want-ack says)",
    )
    bad.add_argument(
        "--reconnect-delay",
        metavar="S",
        type=_number(0, 1e6, float),
        default=1.0,
        help="seconds between a lost link and the next connect, doubled after each failure (default: 1)",
    )
    bad.add_argument("--seed", metavar="N", type=int, help="draw all that is random from this number")
    return made


def planFrom(options: argparse.Namespace) -> BoxPlan:
    """
    @raise ConfigError: options that do not go together
    """
    _together(options)
    ackTimeout, resendAfter = options.ack_timeout, options.resend_after
    share, every = options.lose_acks
    md21 = _md21From(options) if options.protocol == "md21" else None
    if resendAfter is None and options.qos == 0:
        resendAfter = DEFAULT_PATIENCE
    isPatient = md21 is None or PATIENCE[md21.wantAck] == inf
    if ackTimeout is None and resendAfter is None and (share or every) and isPatient:
        ackTimeout = DEFAULT_PATIENCE
    resend = options.resend or (Resend.SAME if md21 is None else Resend.NEW).value
    return BoxPlan(
        account=options.account,
        password=None if options.password is None else options.password.encode(),
        batch=options.batch,
        rate=options.rate,
        inflight=options.inflight,
        qos=options.qos,
        form=PayloadForm.JSON if options.json_topic else PayloadForm.PROTO,
        keepAlive=options.keep_alive,
        indexFromGateway=not options.no_index,
        cutEvery=options.cut_every,
        loseAcks=share,
        loseEvery=every,
        resend=Resend(resend),
        ackTimeout=ackTimeout,
        resendAfter=resendAfter,
        reconnectDelay=options.reconnect_delay,
        ack=None if options.no_messages else AckChoice(options.ack),
        cutOnMessage=options.cut_on_message,
        stay=options.stay,
        md21=md21,
    )


def _together(options: argparse.Namespace) -> None:
    """
    @raise ConfigError: options that do not go together
    """
    isMd21 = options.protocol == "md21"
    defaults = parser()
    for name in _OF_MD30 if isMd21 else _OF_MD21:
        if getattr(options, name) != defaults.get_default(name):
            raise ConfigError(f"--{name.replace('_', '-')}", f"needs --protocol {'md30' if isMd21 else 'md21'}")
    if options.password is not None and options.account is None and not isMd21:
        raise ConfigError("--password", "needs --account [MQTT-3.1.2-22]")
    if options.qos == 0 and options.no_index:
        raise ConfigError("--no-index", "needs --qos 1 or 2: at QoS 0 nothing else tells what has arrived")
    for option, value in (("--lose-acks", any(options.lose_acks)), ("--ack-timeout", options.ack_timeout)):
        if options.qos == 0 and value:
            raise ConfigError(option, "needs --qos 1 or 2: there are no acks at QoS 0")
    if options.no_messages and (options.cut_on_message or options.ack != AckChoice.OK.value):
        raise ConfigError("--no-messages", "does not go together with --ack and --cut-on-message")
    if options.ack_timeout is not None and options.resend_after is not None:
        raise ConfigError("--ack-timeout", "does not go together with --resend-after")


def _md21From(options: argparse.Namespace) -> Md21Plan:
    """
    @raise ConfigError: what MD21 cannot say, or options that do not go together on it
    """
    if options.batch > MAX_TRACKS:
        raise ConfigError("--batch", f"a block of MD21 has {MAX_TRACKS} tracks at most")
    if options.account is not None and not _NAME.fullmatch(options.account):
        raise ConfigError("--account", f"{options.account!r} is no account: 1 to 64 of A-Z a-z 0-9 . _ -")
    if options.password is not None and len(options.password) > _MAX_SECRET:
        raise ConfigError("--password", f"has more than {_MAX_SECRET} characters")
    if options.want_ack == "none":
        for option, value in (
            ("--lose-acks", any(options.lose_acks)),
            ("--ack-timeout", options.ack_timeout),
            ("--resend-after", options.resend_after),
        ):
            if value:
                raise ConfigError(option, "does not go together with --want-ack none")
    if options.udp and options.inflight > MAX_UDP_INFLIGHT:
        raise ConfigError("--inflight", f"with --udp there is room for {MAX_UDP_INFLIGHT} blocks at most")
    if options.lose_datagrams and not options.udp:
        raise ConfigError("--lose-datagrams", "needs --udp")
    return Md21Plan(_WANT_ACKS[options.want_ack], options.tls, options.udp, options.lose_datagrams)


def fleetFrom(reactor: Any, options: argparse.Namespace, messageHeard: Callable[[str, Heard], None]) -> Fleet:
    """
    @param options: as L{parser} gives them
    @param messageHeard: told of each message that is no repeat, and of which box's it is
    @raise ConfigError: options that cannot be used
    """
    assets = countAssets(options.first_asset, options.boxes)
    gateways = [
        accessFor(reactor, connect, options.cert, options.key, options.ca, options.tls)
        for connect in options.connect or [DEFAULT_CONNECT[options.protocol]]
    ]
    if options.cert is not None:
        for asset in assets:
            gateways[0](asset)  # now, not at some connect later, is the time to hear of a missing file
    return Fleet(
        reactor,
        inTurn(gateways),
        planFrom(options),
        assets,
        options.tracks,
        stream=options.stream,
        ramp=options.boxes / CONNECTS_A_SECOND if options.ramp is None else options.ramp,
        random=Random(options.seed),
        state=None if options.state is None else StateDirectory(options.state),
        messageHeard=messageHeard,
    )
