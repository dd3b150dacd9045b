"""
Certificates for tests: an authority, what it signs, and its revocation lists, made when they are needed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Issued:
    """
    A certificate with its key.

    @ivar chain: the certificates of the authorities between it and the root, nearest first
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...] = ()

    def certificatePem(self) -> bytes:
        """
        The certificate and its chain.
        """
        return b"".join(each.public_bytes(Encoding.PEM) for each in (self.certificate, *self.chain))

    def keyPem(self, passphrase: bytes | None = None) -> bytes:
        """
        The key, encrypted if there is a passphrase.
        """
        encryption = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)

    def write(self, directory: str, name: str) -> tuple[str, str]:
        """
        Into C{directory}; gives the paths of certificate and key.
        """
        certificate, key = os.path.join(directory, f"{name}.pem"), os.path.join(directory, f"{name}.key")
        replaceFile(certificate, self.certificatePem())
        replaceFile(key, self.keyPem())
        return certificate, key


class Authority:
    """
    A certificate authority: a root, or one below another.
    """

    def __init__(self, commonName: str = "Test Root", parent: Authority | None = None) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.parent = parent
        self.name = _subject(commonName, "Tests")
        signer = parent or self
        self.certificate = (
            _builder(self.name, signer.name, self.key.public_key(), DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_authorityUsage(), critical=True)
            .sign(signer.key, SHA256())
        )

    def certificatePem(self) -> bytes:
        """
        Its own certificate.
        """
        return self.certificate.public_bytes(Encoding.PEM)

    def issueServer(self, host: str = "localhost", lifetime: timedelta = DAY) -> Issued:
        """
        For a listener on C{host} and 127.0.0.1.

        @param lifetime: until it expires; negative: expired so long ago
        """
        names = x509.SubjectAlternativeName([x509.DNSName(host), x509.IPAddress(ip_address("127.0.0.1"))])
        return self._issue(_subject(host, None), ExtendedKeyUsageOID.SERVER_AUTH, lifetime, [names])

    def issueClient(self, asset: str, account: str | None, lifetime: timedelta = DAY) -> Issued:
        """
        For a box: CN = asset, O = account.
        """
        return self._issue(_subject(asset, account), ExtendedKeyUsageOID.CLIENT_AUTH, lifetime, [])

    def revoke(self, revoked: Sequence[Issued] = (), lifetime: timedelta = DAY) -> bytes:
        """
        A revocation list with these in it, PEM.
        """
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.name)
            .last_update(min(now, now + lifetime) - DAY)
            .next_update(now + lifetime)
        )
        for each in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(each.certificate.serial_number).revocation_date(now)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self.key, SHA256()).public_bytes(Encoding.PEM)

    def _issue(
        self,
        subject: x509.Name,
        usage: x509.ObjectIdentifier,
        lifetime: timedelta,
        extensions: Sequence[x509.ExtensionType],
    ) -> Issued:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(subject, self.name, key.public_key(), lifetime)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return Issued(builder.sign(self.key, SHA256()), key, self._chain())

    def _chain(self) -> tuple[x509.Certificate, ...]:
        return () if self.parent is None else (self.certificate, *self.parent._chain())


def replaceFile(path: str, content: bytes) -> None:
    """
    Put a file in place at once, as a new inode, as those do who renew certificates.
    """
    with open(f"{path}.new", "wb") as file:
        file.write(content)
    os.replace(f"{path}.new", path)


def _subject(commonName: str, organization: str | None) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, commonName)]
    if organization is not None:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(attributes)


def _authorityUsage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, lifetime: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, now + lifetime) - DAY)
        .not_valid_after(now + lifetime)
    )
