"""
Tests for L{binaryserver.endpoints.trust}.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import crypto
from twisted.trial.unittest import SynchronousTestCase

from binaryserver.endpoints import trust
from binaryserver.endpoints.pemfiles import keyBytes
from binaryserver.endpoints.trust import Lineage, Trust
from tests.certificates import Authority, Issued

NOW = datetime.now(UTC)
UNTRUSTED, REVOKED = "its issuer is not trusted", "a certificate is revoked"
EXPIRED, LIST_EXPIRED = "a certificate has expired", "its issuer's revocation list has expired"


def lists(*pems: bytes) -> list[x509.CertificateRevocationList]:
    """
    Parsed.
    """
    return [x509.load_pem_x509_crl(pem) for pem in pems]


class TrustTests(SynchronousTestCase):
    """
    What is said of a certificate that was verified once.
    """

    def setUp(self) -> None:
        self.root = Authority()
        self.below = Authority("Below", self.root)
        self.lineage = Lineage()
        self.direct = self.issued(self.root)
        self.indirect = self.issued(self.below)

    def issued(self, authority: Authority, lifetime: timedelta = timedelta(days=1), note: bool = True) -> Issued:
        """
        A certificate.

        @param note: it was verified
        """
        issued = authority.issueClient("862123", "fleet", lifetime)
        if note:
            self.lineage.note([issued.certificate, *issued.chain, self.root.certificate])
        return issued

    def trust(self, authorities: Sequence[Authority], *pems: bytes) -> Trust:
        """
        What counts now.
        """
        return Trust([one.certificate for one in authorities], lists(*pems), self.lineage)

    def said(self, judge: Trust, now: datetime | None = None) -> tuple[str, str]:
        """
        Of the two.
        """
        return judge.refusal(self.direct.certificate, now), judge.refusal(self.indirect.certificate, now)

    def test_good(self) -> None:
        """
        Below an authority that is trusted, directly or not, with lists or without.
        """
        self.assertEqual(self.said(self.trust([self.root])), ("", ""))
        good = self.trust([self.root, Authority()], self.root.revoke(), self.below.revoke())
        self.assertEqual(self.said(good, NOW), ("", ""))

    def test_revoked(self) -> None:
        """
        By a list of its issuer, wherever in the chain; not by another's with the same number.
        """
        below = Issued(self.below.certificate, self.below.key)
        cases = [
            (self.root.revoke([self.direct]), self.below.revoke(), (REVOKED, "")),
            (self.root.revoke(), self.below.revoke([self.indirect]), ("", REVOKED)),
            (self.root.revoke([self.indirect]), self.below.revoke([self.direct]), ("", "")),
            (self.root.revoke([below]), self.below.revoke(), ("", REVOKED)),
        ]
        for first, second, expected in cases:
            self.assertEqual(self.said(self.trust([self.root], first, second)), expected)

    def test_severalLists(self) -> None:
        """
        An entry in any of an issuer's lists counts; one by who merely has the issuer's name does not.
        """
        both = self.root.revoke([self.direct]), self.root.revoke()
        self.assertEqual(self.trust([self.root], *both).refusal(self.direct.certificate), REVOKED)
        forged = self.root.revoke(), Authority().revoke([self.direct])
        self.assertEqual(self.trust([self.root], *forged).refusal(self.direct.certificate), "")

    def test_missingList(self) -> None:
        """
        Without a list of its issuer, if there are lists, OpenSSL would not let it in.
        """
        self.assertEqual(
            self.said(self.trust([self.root], self.root.revoke())), ("", "its issuer's revocation list is missing")
        )

    def test_distrusted(self) -> None:
        """
        An authority that is gone vouches for nobody; nor does another that has its name.
        """
        self.assertEqual(self.said(self.trust([])), (UNTRUSTED, UNTRUSTED))
        self.assertEqual(self.said(self.trust([Authority()])), (UNTRUSTED, UNTRUSTED))
        # Not without the root above it, as OpenSSL has it.
        self.assertEqual(self.said(self.trust([self.below])), (UNTRUSTED, UNTRUSTED))

    def test_renewed(self) -> None:
        """
        An authority that has a new certificate with its old key is the same.
        """
        renewed = Authority()
        renewed.key, renewed.name = self.root.key, self.root.name
        old = self.root.certificate
        renewed.certificate = (
            x509.CertificateBuilder(old.issuer, old.subject, old.public_key(), 7, NOW, NOW + timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.root.key, SHA256())
        )
        self.assertEqual(self.said(self.trust([renewed])), ("", ""))

    def test_expired(self) -> None:
        """
        What has expired counts in a handshake only.
        """
        later = NOW + timedelta(hours=2)
        self.direct = self.issued(self.root, timedelta(hours=1))
        self.assertEqual(self.said(self.trust([self.root]), later), (EXPIRED, ""))
        self.assertEqual(self.said(self.trust([self.root]), NOW), ("", ""))
        self.assertEqual(self.said(self.trust([self.root])), ("", ""))
        self.direct = self.issued(self.root)
        short = self.trust([self.root], self.root.revoke(lifetime=timedelta(hours=1)), self.below.revoke())
        self.assertEqual(self.said(short, later), (LIST_EXPIRED, LIST_EXPIRED))
        self.assertEqual(self.said(short), ("", ""))

    def test_forgotten(self) -> None:
        """
        An issuer that is not remembered is found by its signature; who never was verified is nobody's.
        """
        fresh = self.issued(self.root, note=False), self.issued(self.below, note=False)
        stranger = self.issued(Authority(), note=False)
        judge = self.trust([self.root])
        said = [judge.refusal(one.certificate) for one in (*fresh, stranger)]
        self.assertEqual(said, ["", "", UNTRUSTED])

    def test_bounded(self) -> None:
        """
        No more is remembered than there is room for, and what is forgotten does no harm.
        """
        self.patch(trust, "MOST_ISSUED", 5)
        self.patch(trust, "MOST_INTERMEDIATES", 2)
        self.lineage = Lineage()
        authorities = [Authority(f"Below {number}", self.root) for number in range(4)]
        issued = [self.issued(authority) for authority in authorities for _ in range(3)]
        judge = self.trust([self.root])
        said = [judge.refusal(one.certificate) for one in issued]
        self.assertEqual(said, [UNTRUSTED] * 6 + [""] * 6)
        self.assertEqual((len(self.lineage._issuers._kept), len(self.lineage._intermediates._kept)), (5, 2))

    def test_renewedIntermediate(self) -> None:
        """
        Of an intermediate authority that is renewed again and again with its key the latest certificates are known.
        """
        for number in range(20):
            old = self.below.certificate
            self.below.certificate = (
                x509.CertificateBuilder(
                    old.issuer, old.subject, old.public_key(), number + 1, NOW, NOW + timedelta(days=2)
                )
                .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
                .sign(self.root.key, SHA256())
            )
            latest = self.issued(self.below)
        self.assertEqual(self.trust([self.root]).refusal(latest.certificate), "")
        key = keyBytes(self.below.certificate)
        self.assertEqual([one.serial_number for one in self.lineage.withKey(key)], list(range(13, 21)))

    @settings(max_examples=25, deadline=None)
    @given(st.sets(st.integers(0, 5)), st.booleans())
    def test_asOpenssl(self, revoked: set[int], trusted: bool) -> None:
        """
        Of any certificates and lists OpenSSL says the same.
        """
        issued = [self.issued(self.root if number % 2 else self.below) for number in range(6)]
        authority = self.root if trusted else Authority("Another")
        pems = [
            one.revoke([each for number, each in enumerate(issued) if number in revoked])
            for one in (self.root, self.below)
        ]
        if not trusted:
            pems.append(authority.revoke())
        judge = self.trust([authority], *pems)
        store = crypto.X509Store()
        store.add_cert(crypto.X509.from_cryptography(authority.certificate))
        for one in lists(*pems):
            store.add_crl(one)
        store.set_flags(crypto.X509StoreFlags.CRL_CHECK | crypto.X509StoreFlags.CRL_CHECK_ALL)
        for each in issued:
            chain = [crypto.X509.from_cryptography(above) for above in each.chain]
            verified = crypto.X509StoreContext(store, crypto.X509.from_cryptography(each.certificate), chain)
            try:
                verified.verify_certificate()
                good = True
            except crypto.X509StoreContextError:
                good = False
            self.assertEqual(judge.refusal(each.certificate, datetime.now(UTC)) == "", good)
