"""
The files that a TLS listener is made of: found, read, parsed, and checked to fit together.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from binaryserver.endpoints.errors import EndpointError
from binaryserver.filestamp import FileStamp, stampIfThere

Parsed = TypeVar("Parsed")
Stamp = tuple[str, FileStamp | None]

_CRL = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class CredentialFiles:
    """
    The files that a TLS endpoint string names; all PEM.

    @ivar certificate: the server's certificate, then the chain up to but without the root
    @ivar key: its private key, not encrypted
    @ivar clientAuthorities: who signs the boxes' certificates; L{None}: boxes are not asked for one
    @ivar revocations: a revocation list of each of those; L{None}: none is checked
    @ivar names: a folder of C{*.pem}, each a certificate, its chain and its key, shown to peers that ask for one of the
        certificate's names; L{None}: all see C{certificate}
    """

    certificate: str
    key: str
    clientAuthorities: str | None = None
    revocations: str | None = None
    names: str | None = None

    def paths(self) -> list[str]:
        """
        All files that are named.
        """
        named = (self.certificate, self.key, self.clientAuthorities, self.revocations)
        return [path for path in named if path is not None]

    def stamps(self) -> list[Stamp]:
        """
        What tells one state of the files from the next, those in the folder included.
        """
        paths = self.paths()
        if self.names is not None:
            try:
                paths += _pemFiles(self.names)
            except OSError:
                paths.append(self.names)
        return [(path, stampIfThere(path)) for path in paths]


@dataclass(frozen=True, slots=True)
class NamedCertificate:
    """
    One file of the folder.

    @ivar names: DNS names of the certificate, in lower case; the first label may be C{*}
    """

    path: str
    chain: tuple[x509.Certificate, ...]
    key: PrivateKeyTypes
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Credentials:
    """
    What those files hold, checked to fit together.

    @ivar chain: shown to peers that ask for no name of C{named}
    """

    chain: tuple[x509.Certificate, ...]
    key: PrivateKeyTypes
    authorities: tuple[x509.Certificate, ...] = ()
    revocations: tuple[x509.CertificateRevocationList, ...] = ()
    named: tuple[NamedCertificate, ...] = ()

    def expiries(self) -> list[tuple[datetime, str]]:
        """
        When each thing that expires does, and what it is.
        """
        found = [(self.chain[0].not_valid_after_utc, "the server's certificate")]
        found += [(one.chain[0].not_valid_after_utc, f"the certificate in {one.path}") for one in self.named]
        for listed in self.revocations:
            if listed.next_update_utc is not None:
                found.append((listed.next_update_utc, f"the revocation list of {listed.issuer.rfc4514_string()}"))
        return found


def loadCredentials(files: CredentialFiles) -> Credentials:
    """
    Read and check the files. Blocks.

    @raise EndpointError: one is unreadable, is not what it should be, or does not fit another
    """
    chain = _certificates(files.certificate, "cert")
    key = _privateKey(files.key, "key")
    if not _fits(key, chain[0]):
        raise EndpointError(f"key={files.key}: is not the key of the certificate in {files.certificate}")
    authorities: tuple[x509.Certificate, ...] = ()
    revocations: tuple[x509.CertificateRevocationList, ...] = ()
    if files.clientAuthorities is not None:
        authorities = _certificates(files.clientAuthorities, "clientca")
    if files.revocations is not None:
        if not authorities:
            raise EndpointError(f"crl={files.revocations}: of no use without clientca=PATH")
        revocations = _revocationLists(files.revocations, authorities)
    named = () if files.names is None else _namedCertificates(files.names)
    return Credentials(chain, key, authorities, revocations, named)


def isListOf(listed: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    """
    Whether an authority signed a revocation list.
    """
    if listed.issuer != authority.subject:
        return False
    try:
        return listed.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
    except TypeError:
        # A key of a kind that cannot sign.
        return False


def keyBytes(certificate: x509.Certificate) -> bytes:
    """
    A certificate's public key, DER.
    """
    return _publicBytes(certificate.public_key())


def _pemFiles(folder: str) -> list[str]:
    # Names that begin with a dot are those of editors, and of Kubernetes' mounts.
    names = sorted(name for name in os.listdir(folder) if name.endswith(".pem") and not name.startswith("."))
    return [os.path.join(folder, name) for name in names]


def _namedCertificates(folder: str) -> tuple[NamedCertificate, ...]:
    try:
        paths = _pemFiles(folder)
    except OSError as error:
        raise EndpointError(f"sni={folder}: {error.strerror or error}") from error
    if not paths:
        raise EndpointError(f"sni={folder}: holds no file *.pem")
    found = tuple(_namedCertificate(path) for path in paths)
    shownBy: dict[str, str] = {}
    for one in found:
        for name in one.names:
            if name in shownBy:
                raise EndpointError(f"sni={one.path}: {name} is a name of the certificate in {shownBy[name]} too")
            shownBy[name] = one.path
    return found


def _namedCertificate(path: str) -> NamedCertificate:
    chain = _certificates(path, "sni")
    key = _privateKey(path, "sni")
    if not _fits(key, chain[0]):
        raise EndpointError(f"sni={path}: its key is not that of its first certificate")
    try:
        extension = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = extension.value.get_values_for_type(x509.DNSName)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        names = []
    if not names:
        raise EndpointError(f"sni={path}: its certificate has no DNS name to be shown for")
    return NamedCertificate(path, chain, key, tuple(sorted({name.lower() for name in names})))


def _read(path: str, what: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise EndpointError(f"{what}={path}: {error.strerror or error}") from error


def _certificates(path: str, what: str) -> tuple[x509.Certificate, ...]:
    data = _read(path, what)
    return tuple(
        _parsed(lambda: x509.load_pem_x509_certificates(data), path, what, "PEM certificates, or damaged ones")
    )


def _privateKey(path: str, what: str) -> PrivateKeyTypes:
    data = _read(path, what)
    try:
        return _parsed(lambda: load_pem_private_key(data, None), path, what, "PEM private key, or a damaged one")
    except TypeError as error:
        raise EndpointError(f"{what}={path}: is encrypted; a key without a passphrase is needed") from error


def _parsed(parse: Callable[[], Parsed], path: str, what: str, wanted: str) -> Parsed:
    try:
        return parse()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise EndpointError(f"{what}={path}: holds no {wanted}") from error


def _revocationLists(path: str, authorities: Sequence[x509.Certificate]) -> tuple[x509.CertificateRevocationList, ...]:
    blocks = _CRL.findall(_read(path, "crl"))
    if not blocks:
        raise EndpointError(f"crl={path}: holds no PEM revocation list")
    lists = _parsed(
        lambda: [x509.load_pem_x509_crl(block) for block in blocks],
        path,
        "crl",
        "PEM revocation lists, or damaged ones",
    )
    for authority in authorities:
        # OpenSSL would refuse every box of an authority whose list is missing: better said at start.
        if not any(isListOf(listed, authority) for listed in lists):
            name = authority.subject.rfc4514_string()
            raise EndpointError(f"crl={path}: holds no revocation list signed by {name} of clientca")
    return tuple(lists)


def _fits(key: PrivateKeyTypes, certificate: x509.Certificate) -> bool:
    return keyBytes(certificate) == _publicBytes(key.public_key())


def _publicBytes(key: object) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined,no-any-return]
