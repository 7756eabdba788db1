"""What the OpenAPI document says of the pages that are no operations of the API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shared_registry.api.problems import CONTENT_TYPE as PROBLEM

JSON, TEXT = "application/json", "text/plain"
DOCUMENT_PATH = "/openapi.json"


@dataclass(frozen=True, slots=True)
class DocumentedPage:
    """One page.

    Attributes:
        path: The path.
        name: The name, for programs that are made from the document.
        summary: What it shows, in one sentence.
        answers: What each status means, and the type of the answer; an empty type for none.
        method: The HTTP method.
        query: The parameters in the query, with what they mean.
        is_open: Whether nobody needs a token for it.
    """

    path: str
    name: str
    summary: str
    answers: Mapping[int, tuple[str, str]]
    method: str = "GET"
    query: Mapping[str, str] = field(default_factory=dict)
    is_open: bool = False


POOL = {"pool": "The pool, if this router has several."}
PAGES = (
    DocumentedPage("/healthz", "healthz", "Whether the router runs.", {200: ("It does.", JSON)}, is_open=True),
    DocumentedPage(
        "/readyz",
        "readyz",
        "Whether the router takes sessions.",
        {200: ("It does.", JSON), 503: ("It does not; the reason is in the answer.", JSON)},
        is_open=True,
    ),
    DocumentedPage("/status", "status", "All that the router knows of its replicas.", {200: ("The status.", JSON)}),
    DocumentedPage("/metrics", "metrics", "The metrics, for Prometheus.", {200: ("The metrics.", TEXT)}),
    DocumentedPage(DOCUMENT_PATH, "openapi", "This document.", {200: ("The document.", JSON)}),
    DocumentedPage(
        "/v1/pick",
        "pick_replica",
        "Choose a replica by the policy and name it in headers, for `auth_request` of nginx.",
        {
            200: ("`X-Replica` has its host and port, `X-Replica-Url` its url.", JSON),
            400: ("A parameter is wrong (`invalid_request`).", PROBLEM),
            404: ("There is no such pool (`not_found`).", PROBLEM),
            503: ("No replica can be selected (`no_healthy_replica`).", PROBLEM),
        },
        query={**POOL, "key": "The key of the session.", "policy": "Replaces the policy of the settings."},
    ),
    DocumentedPage(
        "/v3/discovery:endpoints",
        "discover_endpoints",
        "The replicas for Envoy, by its REST endpoint discovery.",
        {
            200: ("A DiscoveryResponse.", JSON),
            304: ("Nothing has changed.", ""),
            400: ("The body is no DiscoveryRequest (`invalid_request`).", PROBLEM),
            503: ("The router does not know the replicas now (`unavailable`).", PROBLEM),
        },
        method="POST",
    ),
)
