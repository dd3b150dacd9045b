"""
MD21's PDUs from bytes and to bytes, after C{proto/md21.asn1} in unaligned PER.

Written by hand for that module, as the general codecs take 50 µs and more a track; the tests hold it against two of
them, asn1tools and Erlang's asn1ct.
"""

from __future__ import annotations

from binaryserver.md21.codec_read import READERS
from binaryserver.md21.codec_write import WRITERS
from binaryserver.md21.uper import Reader, Writer, refuse
from binaryserver.md21.values import MAX_PDU, Pdu


def decode(pdu: bytes) -> Pdu:
    """
    Read one PDU, as it comes without its length prefix.

    @raise MalformedPacket: it is none: truncated, followed by something, out of bounds, or of a later version
    """
    if len(pdu) > MAX_PDU:
        refuse(f"{len(pdu)} bytes")
    reader = Reader(pdu)
    # the extension bit, and the number in 4 bits
    number = reader.bits(5)
    if number >= len(READERS):
        refuse("an alternative of a later version")
    value = READERS[number](reader)
    reader.finish()
    return value


def encode(pdu: Pdu) -> bytes:
    """
    Write one PDU, without a length prefix.

    @raise ValueError: it cannot hold these values
    """
    number, write = WRITERS[type(pdu)]
    writer = Writer()
    writer.bits(number, 5)
    write(writer, pdu)
    octets = writer.finish()
    if len(octets) > MAX_PDU:
        raise ValueError(f"a PDU of {len(octets)} bytes")
    return octets
