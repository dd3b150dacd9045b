"""
Tests for C{docs/directory-api.yaml}: it is an OpenAPI document, it says what the parser takes, and the example service
answers as it says.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from treq.client import HTTPClient
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import Agent
from twisted.web.http_headers import Headers

from binaryserver.directory.httpdirectory import MAX_LIST, MAX_PAGES
from binaryserver.directory.httpfetch import MAX_BODY
from binaryserver.directory.parsing import MAX_CHANNELS, MAX_FIELDS, parseAccount, parseBox
from binaryserver.directory.tables import BadRecord
from tests.directory.contract import reactor
from tests.directory.samples import FINGERPRINT, fullAccount, fullBox
from tests.directory.service import BASE
from tests.directory.test_httpdirectory import ServiceTestCase

DOCUMENT: Any = yaml.safe_load((Path(__file__).parents[2] / "docs" / "directory-api.yaml").read_text("utf-8"))


def faultsOf(name: str, data: object) -> list[str]:
    """
    What one of the document's schemas finds wrong.
    """
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    return [error.message for error in Draft202012Validator(schema).iter_errors(data)]


class DocumentTests(SynchronousTestCase):
    """
    The document itself.
    """

    def test_valid(self) -> None:
        """
        It is OpenAPI 3.1, and so are its schemas and examples.
        """
        validate(DOCUMENT)
        self.assertTrue(DOCUMENT["openapi"].startswith("3.1."))
        for name in ("Account", "Box"):
            self.assertEqual(faultsOf(name, {"name": "a", "asset": "a"}), [])
            self.assertNotEqual(faultsOf(name, {}), [])
        for path in DOCUMENT["paths"].values():
            content = path["get"]["responses"]["200"]["content"]["application/json"]
            if "example" in content:
                self.assertEqual(faultsOf(content["schema"]["$ref"].rpartition("/")[2], content["example"]), [])

    def test_limits(self) -> None:
        """
        Its limits in words are those of the code.
        """
        text = json.dumps(DOCUMENT)
        self.assertEqual((MAX_BODY, MAX_LIST), (1 << 20, 4 << 20))
        for each in (f"{MAX_FIELDS:,} fields, {MAX_PAGES} pages", f"{MAX_CHANNELS:,} channels, {MAX_PAGES} pages"):
            self.assertIn(each, text)

    def test_keys(self) -> None:
        """
        It names every key that the parser knows, and no other: the parser refuses those.
        """
        schemas = DOCUMENT["components"]["schemas"]
        account, box = fullAccount(), fullBox()
        self.assertEqual({*schemas["Account"]["properties"], "channels", "fields", "box"}, set(account))
        self.assertEqual(set(schemas["Box"]["properties"]), set(box))
        self.assertEqual(set(schemas["Limits"]["properties"]), set(account["limits"]))
        self.assertEqual(set(schemas["Privacy"]["properties"]), set(account["privacy"]))
        del account["box"]
        parseAccount(account, True)
        parseBox(box, "acme", True)

    @given(
        st.fixed_dictionaries(
            {},
            optional={
                "active": st.booleans() | st.integers(0, 1),
                "cloud": st.sampled_from(["both", "cloudnext", "cloudconnect", "none", ""]),
                "secret_hash": st.sampled_from([fullBox()["secret_hash"], "", "secret", "$argon2id$v=19$m=1"]),
                "message_expiry": st.sampled_from([-1, 0, 0.5, 316_224_000, 316_224_001, "1", True]),
                "limits": st.fixed_dictionaries(
                    {},
                    optional={
                        "links": st.sampled_from([-1, 0, 2**31 - 1, 2**31, True, "1"]),
                        "bytes_per_second": st.sampled_from([-1, 0, 1.5, 10**12, 10**12 + 1]),
                    },
                ),
                "privacy": st.fixed_dictionaries(
                    {},
                    optional={
                        "position_digits": st.integers(-3, 9),
                        "drop_fields": st.lists(st.sampled_from([0, 1, 2**32 - 1, 2**32, "1"]), max_size=2),
                    },
                ),
            },
        )
    )
    def test_accounts(self, account: dict[str, Any]) -> None:
        """
        The parser takes exactly the accounts that the document allows.
        """
        account["name"] = "acme"
        self.assertEqual(self.isTaken(lambda: parseAccount(account, True)), faultsOf("Account", account) == [], account)

    @given(
        st.fixed_dictionaries(
            {"asset": st.sampled_from(["b", "x" * 64, "x" * 65, "", "a/b", "é", 3])},
            optional={
                "revoked": st.booleans() | st.just("no"),
                "certificate": st.sampled_from([FINGERPRINT, fullBox()["certificate"], "", FINGERPRINT[1:], "g" * 64]),
                "metadata": st.dictionaries(
                    st.sampled_from(["", "a", "x" * 129]), st.sampled_from(["", "y" * 1025, 3])
                ),
            },
        )
    )
    def test_boxes(self, box: dict[str, Any]) -> None:
        """
        The same of boxes.
        """
        self.assertEqual(self.isTaken(lambda: parseBox(box, "acme", True)), faultsOf("Box", box) == [], box)

    def isTaken(self, parse: Any) -> bool:
        """
        Whether the parser takes it.
        """
        try:
            parse()
        except BadRecord:
            return False
        return True


class ServiceTests(ServiceTestCase):
    """
    The example service.
    """

    async def answer(self, path: str, **headers: str) -> tuple[int, str, Any]:
        """
        Status, type and JSON of an answer.
        """
        url = f"http://127.0.0.1:{self.port.getHost().port}/{BASE}{path}"
        response = await HTTPClient(Agent(reactor)).get(
            url, headers=Headers({name: [value] for name, value in headers.items()}), reactor=reactor
        )
        body = await response.content()
        kind = response.headers.getRawHeaders("content-type", [""])[0]
        return response.code, kind, json.loads(body) if body else None

    async def check(self, template: str, path: str, status: int, **headers: str) -> Any:
        """
        An answer that is as the document says.
        """
        code, kind, found = await self.answer(path, **headers)
        self.assertEqual(code, status)
        described = DOCUMENT["paths"][template]["get"]["responses"][str(status)]
        if "$ref" in described:
            described = DOCUMENT["components"]["responses"][described["$ref"].rpartition("/")[2]]
        if "content" in described:
            schema = described["content"][kind]["schema"]["$ref"].rpartition("/")[2]
            self.assertEqual(faultsOf(schema, found), [])
        else:
            self.assertIsNone(found)
        return found

    async def test_answers(self) -> None:
        """
        Each resource, there and not there.
        """
        self.write([fullAccount(), {"name": "bare", "box": [{"asset": "b"}]}])
        account, box = "/accounts/{account}", "/accounts/{account}/boxes/{asset}"
        found = await self.check(account, "/accounts/acme", 200)
        self.assertEqual(set(found), {*fullAccount()} - {"box", "fields", "channels"})
        self.assertEqual(await self.check(box, "/accounts/acme/boxes/350000000000001", 200), fullBox())
        self.assertEqual((await self.check(f"{account}/fields", "/accounts/acme/fields", 200))["fields"][0]["id"], 8)
        self.assertEqual(len((await self.check(f"{account}/channels", "/accounts/acme/channels", 200))["channels"]), 2)
        for template, path in {
            account: "/accounts/other",
            box: "/accounts/acme/boxes/b",
            f"{account}/fields": "/accounts/bare/fields",
            f"{account}/channels": "/accounts/bare/channels",
        }.items():
            await self.check(template, path, 404)
        self.service.mode = "503"
        await self.check(account, "/accounts/acme", 503)
        self.service.mode, self.service.token = "well", "secret"
        await self.check(account, "/accounts/acme", 401)
        await self.check(account, "/accounts/acme", 200, authorization="Bearer secret")

    async def test_pages(self) -> None:
        """
        A list in pages.
        """
        self.write([fullAccount()])
        path = "/accounts/acme/fields"
        first = await self.check("/accounts/{account}/fields", f"{path}?page_size=1", 200)
        self.assertEqual([field["id"] for field in first["fields"]], [8])
        token = first["next_page_token"].replace(" ", "%20")
        second = await self.check("/accounts/{account}/fields", f"{path}?page_size=1&page_token={token}", 200)
        self.assertEqual([field["id"] for field in second["fields"]], [7001])
        self.assertNotIn("next_page_token", second)
