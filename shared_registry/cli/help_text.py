"""The helps of the commands. `python -m tests.tools.command_help` makes them of the docstrings and options.

Each is what the command itself writes on a terminal of 80 columns or more.
"""

HELPS = {
    "": """\
Usage: {program} [OPTIONS] COMMAND [ARGS]...

  A replica registry that several routers share over Redis.

Options:
  --redis URL           The Redis that holds the registry. If the url has a
                        password, set SHARED_REGISTRY_REDIS_URL instead: other
                        users of this machine can read a command line.
  -n, --namespace NAME  The registry's name in that Redis.
  --json                Print JSON for programs.
  --version             Print the version.
  --install-completion  Install completion for the current shell.
  --show-completion     Show completion for the current shell, to copy it or
                        customize the installation.
  -h, --help            Show this message and exit.

Commands:
  serve       Run a router: accept WebSocket and HTTP sessions, and proxy each
              to a replica. Probe the replicas when elected.
  probe       Run a router that only probes: it takes part in elections and
              health verdicts, and serves no clients.
  demo        Run a cluster on this machine and watch it survive failures.
              Valkey, replicas and routers are real processes.
  status      Say in one sentence whether the registry serves, and show its
              replicas. The command does not join as a router.
  routers     Show the routers, with the leader, each router's uptime and last
              heartbeat, and differences in their settings.
  leases      Show the leases: for each slot that a session holds, the router,
              the replica, the session and the age.
  queue       Show the sessions that wait for a slot: position, router,
              session, and the time waited so far.
  events      Show the events, oldest first: changes of replicas, leader and
              routers, each with its author and reason.
  namespaces  Show the namespaces of a Redis: schema, replicas, live routers,
              and the leader of each.
  wait        Wait until at least N replicas are ready for a session: healthy,
              active and below their capacity.
  check       Verify the registry's invariants in Redis, while routers use it.
              Exit with 1 if an invariant is violated.
  join        Announce a replica, and run its command: register it once it is
              healthy, and take it out when it ends.
  add         Register new replicas, or change registered ones. Options that
              are not given change nothing.
  remove      Remove replicas. Config files do not bring them back; `add`
              does.
  drain       Let replicas finish their sessions and take no new ones. They
              are still probed; `enable` reverses it.
  enable      Reverse `drain` and `disable`: the replicas take sessions again
              as soon as they are healthy.
  disable     Take replicas out of service: they get no new sessions and no
              probes. `enable` reverses it.
  step-down   Ask the leader to step down. It stops probing at once and sits
              out, so that another router takes over.
  upgrade     Give the namespace the newest schema that this version knows.
  keys        Print the redis-cli commands that show this namespace's data in
              Redis. All of them only read.
  acl         Print the command that gives a Redis user the least rights with
              which routers and commands work.
  config      Verify a router's YAML file, or show the settings in force.
  api-key     Make API keys for the clients of a router.

  Settings: options override the environment (`SHARED_REGISTRY_REDIS_URL`,
  `SHARED_REGISTRY_NAMESPACE`, ...), and the environment overrides the file
  given with `--config`.

  Exit codes: 0 success, 1 a problem was found, 2 wrong usage or settings, 3
  Redis cannot be reached.
""",
    "serve": """\
Usage: {program} serve [OPTIONS]

  Run a router: accept WebSocket and HTTP sessions, and proxy each to a
  replica. Probe the replicas when elected.

  The router itself answers GET /status, /healthz and /readyz; all other
  requests go to replicas. It logs its address, changes of leader and changes
  of replicas on standard error. With --json each log line is a JSON object;
  the line with the address has a `url`.

  SIGTERM, SIGQUIT and Ctrl-C stop it cleanly: it resigns as leader, accepts
  no new session, lets live sessions finish for up to grace_seconds, and exits
  with 0. A second signal closes them at once. SIGHUP reads the settings
  again, and logs which of them took effect and which need a restart. SIGUSR1
  and SIGUSR2 are ignored.

Options:
  -c, --config FILE     A router's YAML file.
  --host HOST           Address to listen on.
  -p, --port PORT       Port to listen on; 0 takes a free one.
  --workers N           Processes that serve clients on the port.
  --never-lead          Never become the leader; others, such as `probe`,
                        must. See may_lead.
  --wait-redis SECONDS  Exit with 3 if Redis cannot be used within this time
                        after the start; default: keep trying.
  --redis URL           The Redis that holds the registry. If the url has a
                        password, set SHARED_REGISTRY_REDIS_URL instead: other
                        users of this machine can read a command line.
  -n, --namespace NAME  The registry's name in that Redis.
  --json                Print JSON for programs.
  -h, --help            Show this message and exit.

  Examples: `shared-registry serve --config router.yaml --wait-redis 30`;
  `SHARED_REGISTRY_REPLICAS=http://127.0.0.1:8000,http://127.0.0.1:8001
  shared-registry serve --port 9000`
""",
    "probe": """\
Usage: {program} probe [OPTIONS]

  Run a router that only probes: it takes part in elections and health
  verdicts, and serves no clients.

  In a large fleet, run two or more of these, and the routers that serve
  clients with --never-lead. Then no session waits behind probes. It listens
  on no port. `shared-registry routers` shows it like any other router.

  SIGTERM, SIGQUIT and Ctrl-C stop it cleanly: it resigns as leader, and exits
  with 0. SIGHUP reads the settings again.

Options:
  -c, --config FILE     A router's YAML file.
  --wait-redis SECONDS  Exit with 3 if Redis cannot be used within this time
                        after the start; default: keep trying.
  --redis URL           The Redis that holds the registry. If the url has a
                        password, set SHARED_REGISTRY_REDIS_URL instead: other
                        users of this machine can read a command line.
  -n, --namespace NAME  The registry's name in that Redis.
  --json                Print JSON for programs.
  -h, --help            Show this message and exit.

  Examples: `shared-registry probe --config router.yaml`; `shared-registry
  probe -n llm --wait-redis 30`
""",
    "demo": """\
Usage: {program} demo [OPTIONS]

  Run a cluster on this machine and watch it survive failures. Valkey,
  replicas and routers are real processes.

  The demo kills a replica and the leader, drains a replica and adds one.
  After each step it shows which replica each router selects. It needs neither
  Docker nor root, reads no settings, and leaves nothing behind. It exits with
  0 only if it observed the expected result of every step.

  --json prints one object at the end: observed, seconds, redis, namespace,
  settings, and steps [{number, title, observed, seconds, deadline_seconds,
  selected {router: replica}, leader, epoch, sessions, failed_sessions,
  detail}].

Options:
  --keep                Keep the cluster running afterwards, for redis-cli,
                        until Ctrl-C.
  -n, --namespace NAME  The registry's name in that Redis.
  --json                Print JSON for programs.
  -h, --help            Show this message and exit.

  Examples: `shared-registry demo`; `shared-registry demo --keep`
""",
    "status": """\
Usage: {program} status [OPTIONS]

  Say in one sentence whether the registry serves, and show its replicas. The
  command does not join as a router.

  For each replica that is not well it says why, since when, by whom, and how
  many sessions are on it. The table has the columns that fit.

  --json prints one object: redis, namespace, at, summary {level, text},
  history_id, revision, epoch, leader {router, epoch, elected_at} or null,
  leaderless_since, leaderless_why, live_routers, last_heartbeat_at (of any
  router), queue {depth, first_since}, panic (the reason, or null),
  routers_in_trouble {router: why it cannot connect to replicas}, and replicas
  [{url, name, primary, weight, capacity, labels, health_check_path,
  health_check_port, source, in_flight, status, status_since, admin,
  admin_since, admin_reason, admin_by, ejected_until, ejections, last_ok_at,
  last_failure_at, last_latency_ms, last_error, consecutive_failures,
  consecutive_successes, prober, suspected_by, asked, unreached_by,
  reached_by, refuted_prober, owner, ttl_seconds, last_heartbeat_at,
  expired_at} and trouble (what is not well, or null)]. Times are seconds
  since the epoch on the Redis server's clock. Capacity 0 means no limit. With
  --watch it prints one such object per line, or {redis, namespace, error,
  age_seconds} while Redis is away. With --from it prints the router's own
  /status, with from, summary and the trouble of each replica. With --removed
  it prints one object: redis, namespace, at, and removed [{url, name,
  removed_at, by, reason}]. A removal has no end: `add` brings the replica
  back.

Options:
  -w, --watch                     Update the table until Ctrl-C, also while
                                  Redis is away.
  --interval SECONDS              With --watch: the longest time between two
                                  updates; default: 1.
  --wide                          Show all columns, however long the lines
                                  become.
  --unhealthy                     Show only the replicas that are not well,
                                  and explain all of them.
  -l, --selector LABELS           Only replicas with these labels, such as
                                  zone=a,gpu!=h100; NAME alone: that have it,
                                  !NAME: that do not.
  --sort <order|name|url|status|since|sessions|free|latency|failures>
                                  The order of the replicas: the worst, latest
                                  or fullest first.  [default: order]
  --from URL                      Show what this router knows, also while
                                  Redis is away.
  --removed                       Show instead the replicas that operators
                                  removed: when, by whom and why.
  -c, --config FILE               A router's YAML file.
  --redis URL                     The Redis that holds the registry. If the
                                  url has a password, set
                                  SHARED_REGISTRY_REDIS_URL instead: other
                                  users of this machine can read a command
                                  line.
  -n, --namespace NAME            The registry's name in that Redis.
  --json                          Print JSON for programs.
  -h, --help                      Show this message and exit.

  Examples: `shared-registry status --watch --interval 0.5`; `shared-registry
  --redis redis://127.0.0.1:6379/0 -n pool status --json`
""",
    "routers": """\
Usage: {program} routers [OPTIONS]

  Show the routers, with the leader, each router's uptime and last heartbeat,
  and differences in their settings.

  A router is marked "differs" if its shared settings (probing, lease,
  heartbeat) are not those of the leader.

  --json prints one object: redis, namespace, at, leader {router, epoch,
  elected_at} or null, and routers [{key, host, pid, version, url, started_at,
  last_heartbeat_at, expires_at, is_live, is_leader, config_fingerprint,
  agrees_with_leader, leases, probes, trouble, view_age_seconds,
  probe_age_seconds, probe_lag_seconds}]. agrees_with_leader is null if there
  is no leader. leases counts the sessions that hold a slot. probes is `all`,
  `share`, `no` or `in trouble`. trouble says why a router cannot connect to
  replicas, if that is its own fault, such as too many open files; otherwise
  it is null. The last three are as of its last heartbeat, or null: how old
  its view was, how long ago it had finished a probe, and the longest delay of
  a scheduled probe since the heartbeat before.

Options:
  -c, --config FILE     A router's YAML file.
  --redis URL           The Redis that holds the registry. If the url has a
                        password, set SHARED_REGISTRY_REDIS_URL instead: other
                        users of this machine can read a command line.
  -n, --namespace NAME  The registry's name in that Redis.
  --json                Print JSON for programs.
  -h, --help            Show this message and exit.

  Examples: `shared-registry routers`; `shared-registry routers --json -n
  pool`
""",
    "leases": """\
Usage: {program} leases [OPTIONS]

  Show the leases: for each slot that a session holds, the router, the
  replica, the session and the age.

  A session is shown as the first digits of the SHA-256 of its name; the name
  itself is not in Redis. The age counts from when the session asked for the
  slot, by its router's clock.

  --json prints one object: redis, namespace, at, and leases [{id, router,
  url, name, session_digest, asked_at}]. name is null for a replica without
  one, session_digest for a session without a name, and asked_at for a lease
  of a router whose version does not tell. Times are seconds since the epoch.

Options:
  -c, --config FILE     A router's YAML file.
  --redis URL           The Redis that holds the registry. If the url has a
                        password, set SHARED_REGISTRY_REDIS_URL instead: other
                        users of this machine can read a command line.
  -n, --namespace NAME  The registry's name in that Redis.
  --json                Print JSON for programs.
  -h, --help            Show this message and exit.

  Examples: `shared-registry leases`; `shared-registry leases --json -n pool`
""",
    "queue": """\
Usage: {program} queue [OPTIONS]

  Show the sessions that wait for a slot: position, router, session, and the
  time waited so far.

  A session is shown as the first digits of the SHA-256 of its name; the name
  itself is not in Redis.

  --json prints one object: redis, namespace, at, depth, and waiters
  [{position, id, router, session_digest, since}]. id is the id of the lease
  that the session will get. session_digest is null for a session without a
  name. Times are seconds since the epoch on the Redis server's clock.

Options:
  --count N             How many waiters to show, from the first in the queue.
                        [default: 20; x>=0]
  -c, --config FILE     A router's YAML file.
  --redis URL           The Redis that holds the registry. If the url has a
                        password, set SHARED_REGISTRY_REDIS_URL instead: other
                        users of this machine can read a command line.
  -n, --namespace NAME  The registry's name in that Redis.
  --json                Print JSON for programs.
  -h, --help            Show this message and exit.

  Examples: `shared-registry queue`; `shared-registry queue --count 5 --json
  -n pool`
""",
    "events": """\
Usage: {program} events [OPTIONS]

  Show the events, oldest first: changes of replicas, leader and routers, each
  with its author and reason.

  --replica and --kind may be repeated: an event about any of these replicas,
  and of any of these kinds, is shown.

  --json prints one object: redis, namespace, and events [{id, kind, at,
  previous, router, epoch, by, reason, sit_out_seconds, replica, changes}],
  where replica is null or {url, name, primary, weight, capacity, order,
  labels, health_check_path, health_check_port, status, admin, ejected_until,
  owner}. changes is for several replicas whose status changed together:
  [{url, name, consecutive_failures, last_latency_ms, unreached_by, reason}].
  With --follow it prints one event per line.

Options:
  -f, --follow          Also show new events, until Ctrl-C.
  --count N             How many events to show: the latest, or with --after
                        the next ones; default: 20, with --after all.
                        [0<=x<=10000]
  --after ID            Only events after this one.
  --since AGE           Only events of the last 90s, 10m, 2h or 1d.
  --replica TARGET      Only events about this replica, by name or by url.
  --kind KIND           Only events of this kind: leader_elected, or leader
                        for all.
  -c, --config FILE     A router's YAML file.
  --redis URL           The Redis that holds the registry. If the url has a
                        password, set SHARED_REGISTRY_REDIS_URL instead: other
                        users of this machine can read a command line.
  -n, --namespace NAME  The registry's name in that Redis.
  --json                Print JSON for programs.
  -h, --help            Show this message and exit.

  Examples: `shared-registry events --follow`; `shared-registry events --count
  5`; `shared-registry events --since 10m --replica gpu-7 --kind
  replica_unhealthy`; `shared-registry events --after 1764032400123-0 --json`
""",
    "namespaces": """\
Usage: {program} namespaces [OPTIONS]

  Show the namespaces of a Redis: schema, replicas, live routers, and the
  leader of each.

  A namespace of another schema, or one that this Redis user may not read, is
  shown with a note. All keys of the server are scanned, in small pieces; in a
  Redis Cluster, at every primary.

  --json prints one object: redis, namespace (that of the settings), and
  namespaces [{namespace, schema, replicas, live_routers, leader, is_usable,
  note}]. leader is the key of a router, or null. What cannot be read is null.
  is_usable says whether this version can use the namespace.

Options:
  -c, --config FILE  A router's YAML file.
  --redis URL        The Redis that holds the registry. If the url has a
                     password, set SHARED_REGISTRY_REDIS_URL instead: other
                     users of this machine can read a command line.
  --json             Print JSON for programs.
  -h, --help         Show this message and exit.

  Examples: `shared-registry namespaces`; `shared-registry namespaces --redis
  URL --json`
""",
    "wait": """\
Usage: {program} wait [OPTIONS]

  Wait until at least N replicas are ready for a session: healthy, active and
  below their capacity.

  Exits with 1 if the time is up before that, and with 3 if Redis cannot be
  reached at that moment. An outage of Redis before then does not end the
  wait.

  --json prints one object: redis, namespace, wanted, ready, is_ready,
  seconds.

Options:
  --ready N             How many replicas must be ready.  [x>=1; required]
  --timeout SECONDS     The longest time to wait; 0 checks once.  [default:
                        30.0; x>=0]
  -c, --config FILE     A router's YAML file.
  --redis URL           The Redis that holds the registry. If the url has a
                        password, set SHARED_REGISTRY_REDIS_URL instead: other
                        users of this machine can read a command line.
  -n, --namespace NAME  The registry's name in that Redis.
  --json                Print JSON for programs.
  -h, --help            Show this message and exit.

  Examples: `shared-registry wait --ready 2 --timeout 60 && start-traffic`; as
  a container's health check: `shared-registry wait --ready 1 --timeout 0`
""",
    "check": """\
Usage: {program} check [OPTIONS]

  Verify the registry's invariants in Redis, while routers use it. Exit with 1
  if an invariant is violated.

  With --repair it reports the violations that remain: it does not touch keys
  of a wrong type and values that cannot be parsed. If it changed anything, it
  records an event.

  --json prints one object: redis, namespace, is_clean, and violations [{rule,
  key, message}].

Options:
  --repair              Repair data that can be derived from other data
                        (loads, ready sets, the queue, membership, the event
                        stream), then check again.
  --by WHO              The author of the change, recorded in the event;
                        default: user@host.
  -c, --config FILE     A router's YAML file.
  --redis URL           The Redis that holds the registry. If the url has a
                        password, set SHARED_REGISTRY_REDIS_URL instead: other
                        users of this machine can read a command line.
  -n, --namespace NAME  The registry's name in that Redis.
  --json                Print JSON for programs.
  -h, --help            Show this message and exit.

  Examples: `shared-registry check -n pool || alert`; `shared-registry check
  --repair --by ann@desk`
""",
    "join": """\
Usage: {program} join [OPTIONS] [-- COMMAND]...

  Announce a replica, and run its command: register it once it is healthy, and
  take it out when it ends.

  Without a command it announces a replica that runs elsewhere. SIGTERM lets
  the replica drain, deregisters it, and then ends the command; a second
  SIGTERM does it at once. Exits with the command's exit code. With --json
  each log line is a JSON object; --json prints one object a line to standard
  error and nothing else.

Arguments:
  -- COMMAND <list[str]>  The replica's command.

Options:
  --url URL                 The url by which routers reach the replica.
                            [required]
  --name <str>              A name, to which drain and disable belong.
  --owner <str>             Who holds the replica; default: its name, or the
                            host's.
  --ttl SECONDS             How long it stays in service without a heartbeat.
                            [default: 10.0]
  --drain-seconds SECONDS   How long its sessions may go on after SIGTERM.
                            [default: 30.0]
  --stop-seconds SECONDS    How long the command may take to end then.
                            [default: 30.0]
  --primary / --secondary   The tier; secondaries take sessions when no
                            primary can.
  --weight <float>          The share of the load; default: 1.
  --capacity <int>          The most sessions at once; 0, the default, means
                            no limit.
  --order <int>             The order among the replicas, lowest first;
                            default: the end. Only with a single url.
  --label NAME=VALUE        Set a label, such as zone=a; NAME- removes the
                            label. Repeat for several labels.
  --health-check-path PATH  The path that its probes request; '' for the
                            routers' own.
  --health-check-port PORT  The port that its probes connect to; 0 for the
                            routers' own.
  -c, --config FILE         A router's YAML file.
  --redis URL               The Redis that holds the registry. If the url has
                            a password, set SHARED_REGISTRY_REDIS_URL instead:
                            other users of this machine can read a command
                            line.
  -n, --namespace NAME      The registry's name in that Redis.
  --json                    Print JSON for programs.
  -h, --help                Show this message and exit.

  Examples: `shared-registry join --url http://127.0.0.1:8000 --capacity 1 --
  vllm serve MODEL --port 8000`; `shared-registry join --url
  http://127.0.0.1:8000 --name gpu-7`
""",
    "add": """\
Usage: {program} add [OPTIONS] {URL}...

  Register new replicas, or change registered ones. Options that are not given
  change nothing.

  A change keeps the replica's health and load. A new replica takes sessions
  after its first successful probe. The outcomes are registered, updated and
  unchanged.

  --json prints one object: redis, namespace, by, and results [{url, name,
  outcome}]. If Redis fails midway, the outcome is `unknown` or `failed` for
  the replica at which it failed, and `not_tried` for those after it.

Arguments:
  URL <list[str]>  The replicas' http(s) urls, without a path.  [required]

Options:
  --name <str>              A name for people; only with a single url.
  --primary / --secondary   The tier; secondaries take sessions when no
                            primary can.
  --weight <float>          The share of the load; default: 1.
  --capacity <int>          The most sessions at once; 0, the default, means
                            no limit.
  --order <int>             The order among the replicas, lowest first;
                            default: the end. Only with a single url.
  --label NAME=VALUE        Set a label, such as zone=a; NAME- removes the
                            label. Repeat for several labels.
  --health-check-path PATH  The path that its probes request; '' for the
                            routers' own.
  --health-check-port PORT  The port that its probes connect to; 0 for the
                            routers' own.
  --by WHO                  The author of the change, recorded in the event;
                            default: user@host.
  -c, --config FILE         A router's YAML file.
  --redis URL               The Redis that holds the registry. If the url has
                            a password, set SHARED_REGISTRY_REDIS_URL instead:
                            other users of this machine can read a command
                            line.
  -n, --namespace NAME      The registry's name in that Redis.
  --json                    Print JSON for programs.
  -h, --help                Show this message and exit.

  Examples: `shared-registry add http://127.0.0.1:8007 --name gpu-7 --capacity
  4`; `shared-registry add http://127.0.0.1:8008 http://127.0.0.1:8009
  --primary`
""",
    "remove": """\
Usage: {program} remove [OPTIONS] [TARGET]...

  Remove replicas. Config files do not bring them back; `add` does.

  The outcomes are removed, draining and unchanged. With --when-drained, a
  replica that has sessions is draining, or unchanged if it was draining for
  its removal already; `enable` cancels the removal. A replica that was
  removed before is unchanged. `status --removed` lists them.

  Before a change after which no session would find a slot, the command asks
  on a terminal, and otherwise requires --yes. Its last line says what is
  left.

  --json prints one object: redis, namespace, by, results [{url, name,
  outcome, sessions}], left {replicas, free_slots (null: no limit)}, and
  is_dry_run. If Redis fails midway, the outcome is `unknown` or `failed` for
  the replica at which it failed, and `not_tried` for those after it.

Arguments:
  TARGET <list[str]>  Replicas, by name or by url.

Options:
  --reason TEXT          The reason, recorded in the event.
  --when-drained         Drain first, and remove at the end of the last
                         session.
  -l, --selector LABELS  Only replicas with these labels, such as
                         zone=a,gpu!=h100; NAME alone: that have it, !NAME:
                         that do not.
  --dry-run              Show the replicas, their sessions and what is left;
                         change nothing.
  -y, --yes              Do not ask for confirmation, as in scripts.
  --by WHO               The author of the change, recorded in the event;
                         default: user@host.
  -c, --config FILE      A router's YAML file.
  --redis URL            The Redis that holds the registry. If the url has a
                         password, set SHARED_REGISTRY_REDIS_URL instead:
                         other users of this machine can read a command line.
  -n, --namespace NAME   The registry's name in that Redis.
  --json                 Print JSON for programs.
  -h, --help             Show this message and exit.

  Examples: `shared-registry remove gpu-7 --reason 'broken fan'`; `shared-
  registry remove gpu-7 gpu-8 --yes`
""",
    "drain": """\
Usage: {program} drain [OPTIONS] [TARGET]...

  Let replicas finish their sessions and take no new ones. They are still
  probed; `enable` reverses it.

  The outcomes are draining and unchanged. With --wait, progress is reported
  on standard error.

  Before a change after which no session would find a slot, the command asks
  on a terminal, and otherwise requires --yes. Its last line says what is
  left.

  --json prints one object: redis, namespace, by, results [{url, name,
  outcome, sessions}], left {replicas, free_slots (null: no limit)}, and
  is_dry_run. If Redis fails midway, the outcome is `unknown` or `failed` for
  the replica at which it failed, and `not_tried` for those after it.

Arguments:
  TARGET <list[str]>  Replicas, by name or by url.

Options:
  --reason TEXT          The reason, recorded in the event.
  --wait                 Wait until no session is left, and show the number of
                         those left.
  --timeout SECONDS      With --wait: exit with 1 after this time; default: no
                         limit.
  -l, --selector LABELS  Only replicas with these labels, such as
                         zone=a,gpu!=h100; NAME alone: that have it, !NAME:
                         that do not.
  --dry-run              Show the replicas, their sessions and what is left;
                         change nothing.
  -y, --yes              Do not ask for confirmation, as in scripts.
  --by WHO               The author of the change, recorded in the event;
                         default: user@host.
  -c, --config FILE      A router's YAML file.
  --redis URL            The Redis that holds the registry. If the url has a
                         password, set SHARED_REGISTRY_REDIS_URL instead:
                         other users of this machine can read a command line.
  -n, --namespace NAME   The registry's name in that Redis.
  --json                 Print JSON for programs.
  -h, --help             Show this message and exit.

  Examples: `shared-registry drain gpu-7 --reason upgrade`; `shared-registry
  drain gpu-7 gpu-8 --wait --timeout 3600 && reboot`
""",
    "enable": """\
Usage: {program} enable [OPTIONS] [TARGET]...

  Reverse `drain` and `disable`: the replicas take sessions again as soon as
  they are healthy.

  The outcomes are enabled and unchanged.

  --json prints one object: redis, namespace, by, and results [{url, name,
  outcome}]. If Redis fails midway, the outcome is `unknown` or `failed` for
  the replica at which it failed, and `not_tried` for those after it.

Arguments:
  TARGET <list[str]>  Replicas, by name or by url.

Options:
  -l, --selector LABELS  Only replicas with these labels, such as
                         zone=a,gpu!=h100; NAME alone: that have it, !NAME:
                         that do not.
  --by WHO               The author of the change, recorded in the event;
                         default: user@host.
  -c, --config FILE      A router's YAML file.
  --redis URL            The Redis that holds the registry. If the url has a
                         password, set SHARED_REGISTRY_REDIS_URL instead:
                         other users of this machine can read a command line.
  -n, --namespace NAME   The registry's name in that Redis.
  --json                 Print JSON for programs.
  -h, --help             Show this message and exit.

  Examples: `shared-registry enable gpu-7`; `shared-registry enable
  http://127.0.0.1:8007 gpu-8`
""",
    "disable": """\
Usage: {program} disable [OPTIONS] [TARGET]...

  Take replicas out of service: they get no new sessions and no probes.
  `enable` reverses it.

  The outcomes are disabled and unchanged.

  Before a change after which no session would find a slot, the command asks
  on a terminal, and otherwise requires --yes. Its last line says what is
  left.

  --json prints one object: redis, namespace, by, results [{url, name,
  outcome, sessions}], left {replicas, free_slots (null: no limit)}, and
  is_dry_run. If Redis fails midway, the outcome is `unknown` or `failed` for
  the replica at which it failed, and `not_tried` for those after it.

Arguments:
  TARGET <list[str]>  Replicas, by name or by url.

Options:
  --reason TEXT          The reason, recorded in the event.
  -l, --selector LABELS  Only replicas with these labels, such as
                         zone=a,gpu!=h100; NAME alone: that have it, !NAME:
                         that do not.
  --dry-run              Show the replicas, their sessions and what is left;
                         change nothing.
  -y, --yes              Do not ask for confirmation, as in scripts.
  --by WHO               The author of the change, recorded in the event;
                         default: user@host.
  -c, --config FILE      A router's YAML file.
  --redis URL            The Redis that holds the registry. If the url has a
                         password, set SHARED_REGISTRY_REDIS_URL instead:
                         other users of this machine can read a command line.
  -n, --namespace NAME   The registry's name in that Redis.
  --json                 Print JSON for programs.
  -h, --help             Show this message and exit.

  Example: `shared-registry disable gpu-7 --reason 'under repair'`
""",
    "step-down": """\
Usage: {program} step-down [OPTIONS]

  Ask the leader to step down. It stops probing at once and sits out, so that
  another router takes over.

  From that moment Redis refuses its writes as the leader, even if its process
  is paused or cut off. It continues to route sessions. If no other router
  campaigns, no replica is probed until this router is the leader again. Exits
  with 1 if there is no leader.

  --json prints one object: redis, namespace, by, stepped_down {router, epoch,
  sit_out_seconds} or null, and leader {router, epoch}, the new leader, or
  null.

Options:
  --for SECONDS         How long it may not become the leader again; default:
                        3 x lease_seconds, 9 s by default.
  --reason TEXT         The reason, recorded in the event.
  --by WHO              The author of the change, recorded in the event;
                        default: user@host.
  -c, --config FILE     A router's YAML file.
  --redis URL           The Redis that holds the registry. If the url has a
                        password, set SHARED_REGISTRY_REDIS_URL instead: other
                        users of this machine can read a command line.
  -n, --namespace NAME  The registry's name in that Redis.
  --json                Print JSON for programs.
  -h, --help            Show this message and exit.

  Examples: `shared-registry step-down --reason 'kernel upgrade'`; `shared-
  registry step-down --for 300`
""",
    "upgrade": """\
Usage: {program} upgrade [OPTIONS]

  Give the namespace the newest schema that this version knows.

  During a roll-out routers of two versions use the namespace in the older
  form, and the older version can be installed again. This command ends that:
  afterwards older versions are refused. It does nothing while a router of an
  older version lives, and exits with 1. Without it, the leader upgrades once
  no such router has lived for 24 hours.

  --json prints one object: redis, namespace, by, outcome (upgraded, possible,
  current or older), schema {before, now} and older_routers.

Options:
  --dry-run             Say what would be done, and change nothing.
  --by WHO              The author of the change, recorded in the event;
                        default: user@host.
  -c, --config FILE     A router's YAML file.
  --redis URL           The Redis that holds the registry. If the url has a
                        password, set SHARED_REGISTRY_REDIS_URL instead: other
                        users of this machine can read a command line.
  -n, --namespace NAME  The registry's name in that Redis.
  --json                Print JSON for programs.
  -h, --help            Show this message and exit.

  Examples: `shared-registry upgrade --dry-run`; `shared-registry upgrade --by
  ann@desk`
""",
    "keys": """\
Usage: {program} keys [OPTIONS]

  Print the redis-cli commands that show this namespace's data in Redis. All
  of them only read.

  Without --show it connects to nothing, and prints `<url>` for a replica's
  url and `<key>` for a router's key. A password is never printed: redis-cli
  takes it from REDISCLI_AUTH.

  --json prints one object: redis, namespace, redis_cli (the program with its
  options), note, and commands [{shows, words}]. With --show each command also
  has a reply, and a command about one replica or router is repeated for each
  of them, up to 20 times.

Options:
  --show                Run the commands here, without redis-cli, and print
                        Redis's replies.
  -c, --config FILE     A router's YAML file.
  --redis URL           The Redis that holds the registry. If the url has a
                        password, set SHARED_REGISTRY_REDIS_URL instead: other
                        users of this machine can read a command line.
  -n, --namespace NAME  The registry's name in that Redis.
  --json                Print JSON for programs.
  -h, --help            Show this message and exit.

  Examples: `shared-registry keys -n pool`; `shared-registry keys --show`
""",
    "acl": """\
Usage: {program} acl [OPTIONS]

  Print the command that gives a Redis user the least rights with which
  routers and commands work.

  It connects to nothing. Put a password in the place of PASSWORD, and run the
  command at every server, Redis replicas as well. Where sentinels have users,
  the second command is for them.

  --json prints one object: redis, namespace, user, rules (for the servers),
  and sentinel_rules.

Options:
  --user <str>          Name of the user.  [default: shared-registry]
  -c, --config FILE     A router's YAML file.
  --redis URL           The Redis that holds the registry. If the url has a
                        password, set SHARED_REGISTRY_REDIS_URL instead: other
                        users of this machine can read a command line.
  -n, --namespace NAME  The registry's name in that Redis.
  --json                Print JSON for programs.
  -h, --help            Show this message and exit.

  Examples: `shared-registry acl -n pool`; `shared-registry acl --user routers
  --json`
""",
    "config": """\
Usage: {program} config [OPTIONS] COMMAND [ARGS]...

  Verify a router's YAML file, or show the settings in force.

Options:
  -h, --help  Show this message and exit.

Commands:
  validate  Verify a router's YAML file alone: it ignores the...
  show      Show every setting in force and its source: command line,...
""",
    "config validate": """\
Usage: {program} config validate [OPTIONS] {FILE}

  Verify a router's YAML file alone: it ignores the environment, and connects
  to Redis only with --connect.

  It reports all problems at once. An unknown key is only a warning, which
  names the nearest known key. Exits with 1 if there is a problem, and with 2
  if the file cannot be read.

  --json prints one object: file, is_valid, problems [{message, settings}],
  and warnings [message].

Arguments:
  FILE <path>  A router's YAML file.  [required]

Options:
  --connect   Also connect to its Redis, and read the namespace.
  --json      Print JSON for programs.
  -h, --help  Show this message and exit.

  Examples: `shared-registry config validate router.yaml`
""",
    "config show": """\
Usage: {program} config show [OPTIONS]

  Show every setting in force and its source: command line, environment, file
  or default.

  Passwords are masked. It connects to nothing.

  --json prints one object: fingerprint, and settings {name: {value, origin,
  place}}. The origin is `default`, `file`, `environment` or `command line`;
  the place is the key and the file, or the variable. `shared-registry
  routers` compares the fingerprints of the routers.

Options:
  -c, --config FILE     A router's YAML file.
  --redis URL           The Redis that holds the registry. If the url has a
                        password, set SHARED_REGISTRY_REDIS_URL instead: other
                        users of this machine can read a command line.
  -n, --namespace NAME  The registry's name in that Redis.
  --json                Print JSON for programs.
  -h, --help            Show this message and exit.

  Examples: `shared-registry config show --config router.yaml`;
  `SHARED_REGISTRY_LEASE_SECONDS=5 shared-registry config show --json`
""",
    "api-key": """\
Usage: {program} api-key [OPTIONS] COMMAND [ARGS]...

  Make API keys for the clients of a router.

Options:
  -h, --help  Show this message and exit.

Commands:
  new   Make a random key.
  hash  Print the line for `api_keys_file` of a key that exists.
""",
    "api-key new": """\
Usage: {program} api-key new [OPTIONS] [[NAME]]

  Make a random key. Print the key on standard error, and its line for
  `api_keys_file` on standard output.

  The line has the key's digest only, so give the key to its owner now: it
  cannot be shown again.

  --json prints one object on standard output: name, key, and line.

Arguments:
  [NAME] <str>  The name of the key's owner.

Options:
  --json      Print JSON for programs.
  -h, --help  Show this message and exit.

  Example: `shared-registry api-key new team-a >> /etc/shared-registry/api-
  keys`
""",
    "api-key hash": """\
Usage: {program} api-key hash [OPTIONS] [[NAME]]

  Print the line for `api_keys_file` of a key that exists. It reads the key
  from standard input.

  A key on the command line could be read by other users of this machine.

  --json prints one object: name, and line.

Arguments:
  [NAME] <str>  The name of the key's owner.

Options:
  --json      Print JSON for programs.
  -h, --help  Show this message and exit.

  Example: `shared-registry api-key hash team-a < key.txt`
""",
}
