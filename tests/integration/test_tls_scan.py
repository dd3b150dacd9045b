"""
What a scanner that nobody here wrote finds on a TLS listener.
"""

from __future__ import annotations

import os
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import inlineCallbacks
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from binaryserver.endpoints.listening import serverFromString
from tests.certificates import Authority, replaceFile
from tests.scanner import SCANS, requireScanner, scan

TLS12_CIPHERS = {
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
}
TLS13_CIPHERS = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"}


class ScanTests(TestCase):
    """
    One listener with client certificates, revocation lists and names.
    """

    timeout = 300

    @inlineCallbacks
    def test_scan(self) -> Any:
        """
        TLS 1.2 and 1.3 only; ciphers with forward secrecy that are authenticated; sessions are resumed; no compression,
        no renegotiation that a client begins, no early data, and none of the known holes.
        """
        directory = self.mktemp()
        os.makedirs(f"{directory}/names")
        root = Authority()
        named = root.issueServer("*.example")
        certificate, key = root.issueServer().write(directory, "server")
        replaceFile(f"{directory}/ca.pem", root.certificatePem())
        replaceFile(f"{directory}/crl.pem", root.revoke())
        replaceFile(f"{directory}/names/named.pem", named.certificatePem() + named.keyPem())
        endpoint = serverFromString(
            reactor,
            f"tls:0:interface=127.0.0.1:cert={certificate}:key={key}:clientca={directory}/ca.pem"
            f":crl={directory}/crl.pem:sni={directory}/names",
        )
        factory: Any = Factory.forProtocol(Protocol)
        factory.noisy = False
        listening: Any = yield endpoint.listen(factory)
        self.addCleanup(listening.stopListening)
        python = yield deferToThread(requireScanner)
        found = yield deferToThread(scan, python, listening.getHost().port)
        self.assertEqual(len(found), len(SCANS))

        versions = ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1", "tls_1_2", "tls_1_3")
        ciphers = {
            version: {
                one["cipher_suite"]["openssl_name"]
                for one in found[f"{version}_cipher_suites"]["accepted_cipher_suites"]
            }
            for version in versions
        }
        self.assertEqual(
            ciphers, {version: set() for version in versions[:4]} | {"tls_1_2": TLS12_CIPHERS, "tls_1_3": TLS13_CIPHERS}
        )
        self.assertEqual(found["tls_compression"], {"supports_compression": False})
        self.assertEqual(found["tls_1_3_early_data"], {"supports_early_data": False})
        self.assertEqual(found["heartbleed"], {"is_vulnerable_to_heartbleed": False})
        self.assertEqual(found["openssl_ccs_injection"], {"is_vulnerable_to_ccs_injection": False})
        self.assertEqual(found["robot"], {"robot_result": "NOT_VULNERABLE_RSA_NOT_SUPPORTED"})
        self.assertEqual(found["tls_fallback_scsv"], {"supports_fallback_scsv": True})
        self.assertEqual(found["tls_extended_master_secret"], {"supports_ems_extension": True})
        self.assertEqual(
            found["session_renegotiation"],
            {
                "supports_secure_renegotiation": True,
                "is_vulnerable_to_client_renegotiation_dos": False,
                "client_renegotiations_success_count": 0,
            },
        )
        resumption = found["session_resumption"]
        self.assertEqual(resumption["tls_ticket_resumption_result"], "FULLY_SUPPORTED")
        self.assertEqual(resumption["session_id_resumption_result"], "NOT_SUPPORTED")
        curves = {one["name"] for one in found["elliptic_curves"]["supported_curves"]}
        self.assertLessEqual(curves, {"X25519", "X448", "secp256r1", "secp384r1", "secp521r1"})
