"""The settings of a router's own server: which clients and requests it takes, and for how long."""

from __future__ import annotations

from pydantic import ValidationInfo, field_validator
from pydantic.dataclasses import dataclass

from shared_registry.config.access_rules import LOOPBACK, lost_session_keys, tls_misfits, useless_authorities
from shared_registry.config.problems import InvalidSettings
from shared_registry.config.rules import (
    CHECKS_OF_A_PART,
    AccessLogForm,
    AccessLogPath,
    AdminAccess,
    AdminClientCaFile,
    AdminHost,
    AdminNames,
    AdminPort,
    AdminTokensFile,
    AgentPort,
    ApiKeyPlace,
    ApiKeysFile,
    BodyBytes,
    ClientCaFile,
    ClientCount,
    CorsOrigins,
    Expiry,
    FrameBytes,
    Grace,
    HoldCount,
    LogLevel,
    OnLost,
    OptionalSeconds,
    OwnAdminTokens,
    OwnApiKeys,
    OwnCertificateFile,
    OwnKeyFile,
    Period,
    PlacementMode,
    PoolRules,
    RouteRules,
    Seconds,
    SessionKeyText,
    TracingMode,
    TrustedNetworks,
    Workers,
)


@dataclass(frozen=True, repr=False, config=CHECKS_OF_A_PART)
class ServingSettings:
    """The settings that only `shared-registry serve` uses. A part of `RouterConfig`."""

    connect_timeout_seconds: Seconds = 2.0
    """Seconds that the router waits for a connection to a replica, including the WebSocket handshake, before it tries
    another replica. The default is far above the time that a busy replica in the same network needs. With a lower value
    the router leaves a silent replica sooner. With a higher value clients wait longer for it."""

    response_timeout_seconds: Seconds = 300.0
    """Seconds without a byte after which the router gives up a proxied HTTP exchange. The limit applies to the client
    while it sends its request, and to the replica until its response begins and between two parts of the response. A
    replica that computes for a long time before it responds needs a value above that time. A higher value keeps
    exchanges with replicas that hang for longer. WebSocket sessions may be silent without limit."""

    first_byte_timeout_seconds: OptionalSeconds = None
    """Seconds from the end of a proxied HTTP request until the head of the replica's response has arrived; without a
    value, `response_timeout_seconds` applies. A replica that exceeds the limit has failed, and the client gets 504. Set
    a lower value if replicas begin to respond soon, such as with the first token, but then pause for longer."""

    total_timeout_seconds: Grace = 0.0
    """Seconds that a proxied HTTP exchange may take in all, from the head of the request to the end of the response,
    including the wait for a slot. 0, the default, has no limit. At the limit the client gets 504, or its response is
    broken off, and the slot is free again; this is no failure of the replica. It limits clients that read or send
    slowly but never stop. WebSocket sessions have no such limit."""

    max_body_bytes: BodyBytes = 256 * 1024 * 1024
    """The most bytes of a request's body. A longer request is refused with 413: at once if it announces its length,
    before it takes a slot; otherwise as soon as the limit is passed. The router passes bodies on in pieces, so the
    limit protects the replicas, not the router's memory. The default is large enough for images and video in JSON."""

    max_clients: ClientCount = None
    """The most client connections at once. Without a value there are as many as the limit of open files has room for,
    two for each, which the router logs at its start. A client above the limit gets the router's own pages, and 503 for
    all else. Set a lower value to bound the memory, some 10 kB for each connection and more while bodies are under
    way."""

    peer_timeout_seconds: Expiry = 60.0
    """Seconds after which a connection is closed if its peer has disappeared without closing it, or accepts no data.
    The operating system's TCP does this, to the second on Linux. A peer that is only slow keeps its connection: each
    acknowledged byte restarts the time. A lower value frees the resources of peers that have disappeared sooner. A
    higher value tolerates longer interruptions of the network."""

    replica_idle_seconds: Period = 1.5
    """Seconds for which the router keeps an idle connection to a replica for the next request. It must be below the
    time after which the replicas close idle connections, or requests meet connections that are just being closed. The
    default is below the 2 s of gunicorn, which are the lowest of the usual servers; uvicorn closes after 5 s. A higher
    value saves connections where requests are rare."""

    header_timeout_seconds: Seconds = 10.0
    """Seconds in which a client must send the complete head of a request. The time starts when the client connects, or
    begins a further request. After it the router responds with 408 and closes the connection. This limits the cost of
    clients that send one byte at a time."""

    tls_certificate_file: OwnCertificateFile = None
    """PEM file of the router's own certificate and the chain that leads to its authority. With it clients connect with
    TLS 1.2 or 1.3, by https and wss; none by default, so that they connect without. It needs `tls_key_file`. A changed
    file is used for new connections within some seconds; while it is unusable, the former one stays in use."""

    tls_key_file: OwnKeyFile = None
    """PEM file of the private key for `tls_certificate_file`; none by default. It must not have a password, because
    nobody could enter it when the router starts or the file changes."""

    tls_client_ca_file: ClientCaFile = None
    """PEM file of the authorities of which a client's certificate must be. With it every client needs such a
    certificate, health checks of load balancers as well; none by default, so that no client needs one. It needs
    `tls_certificate_file`."""

    api_keys: OwnApiKeys = ()
    """API keys of clients, in the form of lines of `api_keys_file`, such as `['team-a: sha256:HEX']`. None by default:
    every client may use the router. With any key, clients must send one; only `/healthz` and `/readyz` need none. Use
    the file if keys should change while the router runs."""

    api_keys_file: ApiKeysFile = None
    """File of API keys of clients, in addition to `api_keys`; none by default. Each line has a name, a digest, and the
    paths for which the key may be used, or none for all: `team-a: sha256:HEX /v1/*`. `shared-registry api-key` makes
    such lines. A changed file is used within some seconds; while it is unusable, the former keys stay in use."""

    forward_api_key: bool = False
    """Whether the API key of a request is passed on to the replica. By default it is not, so that replicas and their
    logs do not have it, and cannot use it. Set it if the replicas verify the same keys themselves."""

    websocket_api_key: ApiKeyPlace = "header"
    """Where the handshake of a WebSocket may have its API key besides the headers, which browsers cannot set.
    `subprotocol` accepts `openai-insecure-api-key.KEY` among the subprotocols, `query` accepts the parameter
    `api_key`. The default, `header`, accepts neither: both are less secret than a header, because queries stand in the
    logs of proxies. The key is removed there in any case."""

    cors_origins: CorsOrigins = ()
    """Origins whose pages may use the router from a browser, such as `[https://app.example.com]`, or `*` for all. With
    it scripts can read the router's own responses as well, such as 503 with `Retry-After`. The router answers
    preflights itself, in place of the replicas, and refuses WebSockets from pages of other origins. `*` excludes
    cookies. By default there is none: replicas decide about their responses, and scripts cannot read the router's."""

    trusted_proxies: TrustedNetworks = LOOPBACK
    """Addresses and networks of the load balancers and proxies in front of the router, such as `[10.0.0.0/8,
    192.168.1.7]`. Only their `X-Forwarded-For`, `X-Forwarded-Proto`, `X-Forwarded-Host`, `X-Real-IP` and `Forwarded`
    are believed and passed on; those of all other clients are dropped, because anybody can send them. The default is
    this machine. List a proxy elsewhere, or all its clients count as one, and replicas see its address as theirs. An
    address too many lets its owner pretend to be any number of clients. An empty list, or `none`, believes nobody."""

    routes: RouteRules = ()
    """Rules for requests of certain paths: whether they acquire a slot (`lease`), go to any healthy replica without one
    (`any`), or are refused with 403 (`none`). A list such as `[{path: /v1/models, place: any}, {path: /jobs/*, methods:
    [PUT, DELETE], place: lease}]`, of which the first rule that matches decides; `methods` may be left out, and may
    name WEBSOCKET. Where no rule matches, requests that change a replica itself, such as `/sleep` and
    `/update_weights`, are refused, OPTIONS, HEAD and GET go to any healthy replica, and all else acquires a slot."""

    pools: PoolRules = ()
    """Several namespaces behind this router, such as one for each model: a list such as `[{name: llama, models:
    [llama-3*], replicas: [...]}, {name: rest}]`, of which the first that matches a request takes it. Conditions are
    `models` (the field `model` of a JSON body), `paths`, `hosts` and `headers`; each kind that a pool has must match.
    Further keys are settings of that pool, such as `namespace` (its name by default), `redis_url`, `replicas`, `policy`
    and `queue_timeout_seconds`. A request that matches no pool gets 404. Without pools, the router serves `namespace`.
    """

    placement: PlacementMode = "exact"
    """How the requests are placed that acquire a slot where no rule of `routes` says so. `exact` acquires a slot in
    Redis, so that no replica gets more sessions than its capacity from all routers together. `local` chooses by
    `policy` among the healthy replicas, without Redis and without regard to capacity: for short requests to replicas
    that queue by themselves."""

    session_key: SessionKeyText = None
    """Where the router finds the name of a session; a session with a known name returns to its replica. One of
    `header:NAME`, `cookie:NAME` and `query:NAME`, or for WebSockets `first_frame.FIELD`: a field of the first message,
    which must be JSON, such as `first_frame.client_id`. None by default: every session is a new one. With `first_frame`
    the router accepts a WebSocket before it chooses a replica, and then sends that message to the replica first. See
    `affinity_seconds`."""

    on_lost: OnLost = "keep"
    """What the router does with a running session whose replica becomes unhealthy or is removed. `keep` lets the
    session continue, because it may still work although a health check fails. `close` ends it, so that the client
    reconnects to another replica."""

    queue_timeout_seconds: Grace = 0.0
    """Seconds for which a session may wait in the queue at this router, in total over all replicas that it tries. 0,
    the default, refuses a session at once if every replica is full or no replica is healthy. With a value above 0 the
    sessions of all routers wait in one queue, first come, first served (see `max_queue`). A WebSocket client is
    accepted and receives its position; an HTTP client waits for its response. A higher value tolerates longer bursts
    and restarts of replicas. Each waiter costs an open connection, and clients and load balancers need timeouts above
    this value."""

    max_frame_bytes: FrameBytes = 64 * 1024 * 1024
    """The most bytes of one WebSocket message, in both directions, over all its frames. A larger message ends its
    session with close code 1009 to its sender. The router passes messages on in pieces, so the limit protects the
    replicas and the clients, not the router's memory. The default is large enough for video."""

    websocket_ping_seconds: Grace = 0.0
    """Seconds between two pings that the router sends to both sides of a WebSocket session. 0, the default, sends none:
    clients and replicas ping each other if they want to, and peers that have disappeared are found by TCP (see
    `peer_timeout_seconds`). Set it, such as to 20, if something between clients and routers ends silent connections."""

    grace_seconds: Grace = 30.0
    """Seconds that live sessions have to finish after the router is asked to stop. Sessions that are left are then
    closed with 1012. The router resigns as leader and accepts no new session before this time begins. The default of
    30 equals the default grace period of Kubernetes; raise both together. 0 closes the sessions at once."""

    log_level: LogLevel = "info"
    """The least severe messages that `shared-registry serve` logs: `debug`, `info`, `warning` or `error`. `info`, the
    default, logs changes of the leader and of replicas, and what the router does itself. With `warning` the log has
    only what may need attention, and neither the router's address nor its start. `debug` adds what the parts of the
    router will try again by themselves."""

    workers: Workers = 1
    """Processes that serve clients on the port, each on a core of its own. A Python process uses one core, so the
    default of 1 serves as many requests as one core can; set the number of cores that the router may use if that is not
    enough. Each worker is a router of its own in the registry, with its own view, connections and heartbeats, and needs
    some 60 MB. A client's connection stays with the worker that has accepted it. Needs Linux to share connections out
    evenly."""

    access_log: AccessLogForm = "off"
    """Whether and how the router logs each request and each WebSocket session when it ends. `off` is the default,
    because a line costs CPU time and disk space for every request. `text` writes a line of `name=value` pairs, and
    `json` an object with the same names, for programs; `docs/access-log.md` explains them. Queries and the names of
    sessions are not logged."""

    access_log_file: AccessLogPath = None
    """The file to which the access log is appended. It is created if it does not exist, and created again when it was
    renamed, so that logs can be rotated without a signal. By default the access log goes to standard output, and the
    router's own log to standard error. It has no effect while `access_log` is off."""

    tracing: TracingMode = "off"
    """Whether the router makes OpenTelemetry spans of each request and session. `off` is the default, because a trace
    costs as much CPU time as a short request itself. `otlp` sends them to a collector by OTLP over HTTP. It needs the
    extra `otel`, and takes the collector's address and the sampling from OpenTelemetry's own environment variables;
    `docs/traces.md` explains what is in them."""

    admin_host: AdminHost = "127.0.0.1"
    """Address on which the router serves its dashboard, and its pages for operators and monitoring. The default is
    this machine alone, because whoever can connect may read everything there without a password. In a container, set
    `0.0.0.0`, and publish the port only where operators and monitoring are."""

    admin_port: AdminPort = "auto"
    """TCP port of the admin address. `auto`, the default, is 1000 above `port`, or any free port if that is 0, so that
    several routers on a machine need no further setting. Each worker is a router with an admin address of its own: the
    second has the next port, and so on. 0 takes any free port, which the router logs. `off` serves no admin address,
    which saves little: what answers there, some 10 MB, is loaded for its first client."""

    agent_port: AgentPort = "off"
    """TCP port, at `admin_host`, that answers the agent checks of HAProxy, which then drains, weights and stops
    replicas as the cluster does; see `docs/integrations.md`. With workers the second has the next port, and so on.
    Whoever can connect may ask for the state of a replica, and change nothing. `off` by default."""

    admin_names: AdminNames = ()
    """Host names, such as `[router-1.example.com]`, by which the admin address may be reached, besides IP addresses,
    `localhost`, `admin_host` and this machine's name. Requests for other names are refused with 403, so that a page of
    another site cannot read the admin address by a name of its own that leads there. None by default."""

    admin_access: AdminAccess = "read"
    """What clients without a token may do at the admin address. `read`, the default, shows all and changes nothing;
    `none` asks for a token for all but `/healthz` and `/readyz`; `lease` allows to acquire slots as well, `announce` to
    announce replicas as well, and `operate` everything. Set the last three only where nobody else can connect, because
    a web page or a program on the same machine could then drain replicas."""

    admin_tokens: OwnAdminTokens = ()
    """Tokens for the API of the admin address, in the form of lines of `admin_tokens_file`, such as `['go-router:
    sha256:HEX lease']`. None by default: then nobody can do more than `admin_access` says. Use the file if tokens
    should change while the router runs."""

    admin_tokens_file: AdminTokensFile = None
    """File of tokens for the API of the admin address, in addition to `admin_tokens`; none by default. Each line has a
    name, a digest, and what the token allows, of `read`, `lease`, `announce` and `operate`: `go-router: sha256:HEX
    lease`. The command `shared-registry api-key` makes lines without the last part. A changed file is used within some
    seconds; while it is unusable, the former tokens stay in use."""

    admin_client_ca_file: AdminClientCaFile = None
    """PEM file of the authorities of which certificates replace tokens at the admin address. With it the address speaks
    TLS only, with `tls_certificate_file`, and a client with such a certificate may do what `admin_client_access` says.
    Clients without one may do the same as otherwise, by tokens and `admin_access`. None by default: then the admin
    address has no TLS. A changed file is used within some seconds."""

    admin_client_access: AdminAccess = "operate"
    """What clients with a certificate of `admin_client_ca_file` may do at the admin address; each word includes those
    before it: `none`, `read`, `lease`, `announce`, `operate`. The default is everything. The common name of the
    certificate is the author of changes."""

    max_api_leases: HoldCount = 2000
    """The most leases that clients of the API may have at this router at once, whether they have a time to live or are
    held by a connection. More are refused with 503, so that others find room at another router. A lease that is held
    needs a connection and some 30 kB of memory; 0 refuses all."""

    @field_validator("tls_client_ca_file")
    @classmethod
    def _tls_settings_fit(cls, authorities: str | None, info: ValidationInfo) -> str | None:
        if found := tuple(tls_misfits(info.data | {"tls_client_ca_file": authorities})):
            raise InvalidSettings(found)
        return authorities

    @field_validator("admin_client_ca_file")
    @classmethod
    def _admin_has_certificate(cls, authorities: str | None, info: ValidationInfo) -> str | None:
        if found := tuple(
            useless_authorities({**info.data, "admin_client_ca_file": authorities}, "admin_client_ca_file")
        ):
            raise InvalidSettings(found)
        return authorities

    @field_validator("session_key")
    @classmethod
    def _session_key_is_kept(cls, place: str | None, info: ValidationInfo) -> str | None:
        if found := tuple(lost_session_keys(info.data, place)):
            raise InvalidSettings(found)
        return place
