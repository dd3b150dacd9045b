"""
Whether a box's certificate, which OpenSSL verified once, would still be believed.

OpenSSL asks in a full handshake only: not when a session is resumed, and not of a link that is open.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, pairwise
from typing import Generic, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.hashes import SHA256

from binaryserver.endpoints.pemfiles import isListOf, keyBytes

MOST_ISSUED = 65_536
"""Certificates of boxes whose issuer is remembered, 200 bytes each; of others it is found again by its signature."""
MOST_INTERMEDIATES = 1024
"""Keys of authorities between those that are configured and the boxes, which only the boxes show."""

_RENEWALS = 8
"""Certificates of one such key."""
_DEEPEST = 10

Kept = TypeVar("Kept")


class _Latest(Generic[Kept]):
    """
    What was noted last, up to a number.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()

    def note(self, key: bytes, value: Kept) -> None:
        self._kept[key] = value
        self._kept.move_to_end(key)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def get(self, key: bytes) -> Kept | None:
        return self._kept.get(key)

    def values(self) -> Iterable[Kept]:
        return self._kept.values()


class Lineage:
    """
    Who issued the certificates that were verified. It outlives a change of what is trusted: a certificate's issuer is
    who it was.
    """

    def __init__(self) -> None:
        self._issuers: _Latest[bytes] = _Latest(MOST_ISSUED)
        self._intermediates: _Latest[tuple[x509.Certificate, ...]] = _Latest(MOST_INTERMEDIATES)

    def note(self, verified: Sequence[x509.Certificate]) -> None:
        """
        @param verified: a chain as it was verified, the box's own certificate first and the root last
        """
        for certificate, issuer in pairwise(verified):
            self._issuers.note(_fingerprint(certificate), keyBytes(issuer))
        for intermediate in verified[1:-1]:
            key = keyBytes(intermediate)
            others = [one for one in self.withKey(key) if one != intermediate]
            self._intermediates.note(key, (*others[1 - _RENEWALS :], intermediate))

    def withKey(self, key: bytes) -> tuple[x509.Certificate, ...]:
        """
        The intermediates that have a key: several if it was renewed, or is signed by two.
        """
        return self._intermediates.get(key) or ()

    def issuerKey(self, certificate: x509.Certificate, known: Sequence[x509.Certificate]) -> bytes | None:
        """
        The key that signed a certificate; L{None}: of none that is known.

        @param known: those who may have signed it, beside the intermediates
        """
        fingerprint = _fingerprint(certificate)
        key = self._issuers.get(fingerprint)
        if key is not None:
            return key
        for candidate in chain(known, *self._intermediates.values()):
            if _isIssuer(candidate, certificate):
                key = keyBytes(candidate)
                self._issuers.note(fingerprint, key)
                return key
        return None


@dataclass(frozen=True, slots=True)
class _RevocationList:
    """
    One list, made ready to be asked.
    """

    listed: x509.CertificateRevocationList
    serials: frozenset[int]
    expires: datetime | None


class Trust:
    """
    The authorities and the revocation lists of now.
    """

    def __init__(
        self,
        authorities: Sequence[x509.Certificate],
        revocations: Sequence[x509.CertificateRevocationList],
        lineage: Lineage,
    ) -> None:
        """
        Blocks for as long as it takes to read the lists: 0.1 s for 100,000 entries.
        """
        self._authorities = tuple(authorities)
        self._roots = frozenset(one for one in authorities if one.subject == one.issuer)
        self._lineage = lineage
        self._byKey: dict[bytes, list[x509.Certificate]] = {}
        for authority in authorities:
            self._byKey.setdefault(keyBytes(authority), []).append(authority)
        self._lists = [
            _RevocationList(one, frozenset(entry.serial_number for entry in one), one.next_update_utc)
            for one in revocations
        ]
        self._listsOf: dict[x509.Certificate, list[_RevocationList]] = {}

    def refusal(self, certificate: x509.Certificate, now: datetime | None = None) -> str:
        """
        Why a certificate that was verified once is no longer good.

        @param now: judge as a full handshake would at that time; L{None}: let pass what merely has expired
        @return: one phrase; empty: it is good
        """
        return self._refusal(certificate, now, _DEEPEST)

    def _refusal(self, certificate: x509.Certificate, now: datetime | None, depth: int) -> str:
        if now is not None and not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            return "a certificate has expired"
        key = self._lineage.issuerKey(certificate, self._authorities)
        issuers = () if key is None else (*self._byKey.get(key, ()), *self._lineage.withKey(key))
        refusals = [self._refusedBy(issuer, certificate, now, depth) for issuer in issuers]
        if refusals and not all(refusals):
            return ""
        return refusals[0] if refusals else "its issuer is not trusted"

    def _refusedBy(
        self, issuer: x509.Certificate, certificate: x509.Certificate, now: datetime | None, depth: int
    ) -> str:
        if self._lists:
            lists = self._listsBy(issuer)
            if not lists:
                return "its issuer's revocation list is missing"
            # An entry in any of them counts: lists of parts of what an issuer signed may stand side by side.
            if any(certificate.serial_number in one.serials for one in lists):
                return "a certificate is revoked"
            if now is not None and all(one.expires is not None and one.expires < now for one in lists):
                return "its issuer's revocation list has expired"
        if issuer in self._roots:
            if now is not None and issuer.not_valid_after_utc < now:
                return "an authority has expired"
            return ""
        return self._refusal(issuer, now, depth - 1) if depth else "its chain does not end"

    def _listsBy(self, issuer: x509.Certificate) -> list[_RevocationList]:
        lists = self._listsOf.get(issuer)
        if lists is None:
            lists = self._listsOf[issuer] = [one for one in self._lists if isListOf(one.listed, issuer)]
        return lists


def _fingerprint(certificate: x509.Certificate) -> bytes:
    return certificate.fingerprint(SHA256())


def _isIssuer(candidate: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(candidate)
    except (InvalidSignature, TypeError, ValueError):
        return False
    return True
