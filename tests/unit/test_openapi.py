"""The OpenAPI document says what the interface does, and stands in the repository as it is served."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from qguard.api.endpoints import ENDPOINTS
from qguard.api.openapi import document
from qguard.config import parse

ROOT = Path(__file__).parents[2]
DOCUMENT = document(ENDPOINTS)
DOCS = (ROOT / "docs" / "api.md").read_text()


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    return [(method, path, found) for path, item in DOCUMENT["paths"].items() for method, found in item.items()]


def test_the_file_is_current() -> None:
    stored = json.loads((ROOT / "docs" / "openapi.json").read_text())
    assert stored == json.loads(json.dumps(DOCUMENT)), "stale: run scripts/make_openapi.py"


def test_every_endpoint_is_there() -> None:
    listed = {(endpoint.method.lower(), endpoint.path) for endpoint in ENDPOINTS}
    assert listed <= {(method, path) for method, path, _ in operations()}


def test_every_operation_has_a_name_of_its_own() -> None:
    names = [found["operationId"] for _, _, found in operations()]
    assert len(names) == len(set(names))


def test_no_name_of_a_type_says_where_the_code_is() -> None:
    assert not [name for name in DOCUMENT["components"]["schemas"] if "." in name]


@pytest.mark.parametrize(("method", "path", "found"), operations())
def test_what_any_request_may_be_answered_is_said_everywhere(method: str, path: str, found: dict[str, Any]) -> None:
    assert {"400", "408", "431", "500", "503"} <= set(found["responses"]), f"{method} {path}"


def test_the_login_takes_and_answers_a_form_too() -> None:
    login = DOCUMENT["paths"]["/login"]["post"]
    assert set(login["requestBody"]["content"]) == {"application/json", "application/x-www-form-urlencoded"}
    assert "Location" in login["responses"]["303"]["headers"]
    assert "text/html" in login["responses"]["401"]["content"]
    assert "text/html" in DOCUMENT["paths"]["/"]["get"]["responses"]["401"]["content"]


def test_a_session_opens_what_needs_no_hook_key() -> None:
    ways = {(method, path): [set(way) for way in found["security"]] for method, path, found in operations()}
    assert {"Session"} in ways["get", "/stats"]
    assert {"Session", "CsrfToken"} in ways["post", "/pause"]
    assert not [way for way in ways["post", "/webhook"] if "Session" in way]
    used = {scheme for found in ways.values() for way in found for scheme in way}
    assert used == set(DOCUMENT["components"]["securitySchemes"])


def test_every_reference_leads_somewhere() -> None:
    wanted = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(DOCUMENT)))
    assert wanted <= set(DOCUMENT["components"]["schemas"])


@pytest.mark.parametrize(("method", "path", "found"), operations())
def test_every_operation_says_who_may_call_it_and_what_a_refusal_is(
    method: str, path: str, found: dict[str, Any]
) -> None:
    assert found["summary"].endswith("."), f"{method} {path}"
    assert ("401" in found["responses"]) == (bool(found["security"]) or path == "/login")
    for status, answer in found["responses"].items():
        if status >= "400" and path != "/health":
            assert answer["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorAnswer")


@pytest.mark.parametrize(("method", "path", "found"), operations())
def test_every_operation_stands_in_the_docs(method: str, path: str, found: dict[str, Any]) -> None:
    assert f"`{method.upper()} {path}`" in DOCS


def test_a_field_keeps_the_words_of_its_type() -> None:
    page = DOCUMENT["components"]["schemas"]["HistoryReport"]["properties"]["next_before"]
    assert page["description"].startswith("Ask again with this as `before`")


def test_the_example_of_a_configuration_is_a_good_one() -> None:
    field = DOCUMENT["components"]["schemas"]["PreviewBody"]["properties"]["config"]
    (example,) = field["examples"]
    assert [rule.id for rule in parse(example, source=ROOT / "c.yaml", environ={}).settings.trackers]
    assert (field["format"], field["contentMediaType"]) == ("qguard-configuration", "application/yaml")


def test_a_rollback_must_be_confirmed_or_dry() -> None:
    body = DOCUMENT["components"]["schemas"]["RollbackBody"]
    assert [way["required"] for way in body["anyOf"]] == [["confirm"], ["dry_run"]]
