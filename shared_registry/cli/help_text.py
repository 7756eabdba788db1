"""The help of the command. `python -m tests.tools.command_help` makes it of the commands' docstrings."""

HELP = """\
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
"""
