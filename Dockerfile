# `shared-registry` in an image: `serve` is a router, every other command works too.
#
#   docker build -t shared-registry .
#   docker run -p 9000:9000 -e SHARED_REGISTRY_REDIS_URL=redis://... -v ./router.yaml:/etc/shared-registry/router.yaml:ro shared-registry

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
ENV PIP_CONSTRAINT=/src/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# What it depends on comes first: this layer stays until the pins change.
COPY constraints.txt pyproject.toml ./
RUN python -m venv /app \
    && python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; extras = p["optional-dependencies"]; print(*p["dependencies"], *extras["cli"], *extras["router"], *extras["discovery"], *extras["demo"][1:], sep="\n")' \
    | /app/bin/pip install --quiet --requirement /dev/stdin
COPY README.md LICENSE ./
COPY lua lua
COPY shared_registry shared_registry
RUN /app/bin/pip install --quiet --no-deps . && /app/bin/pip uninstall --quiet --yes pip setuptools

FROM python:3.11-slim-bookworm
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1
# Where it listens, whatever the file says: the health check asks there, too. Override them with -e.
ENV SHARED_REGISTRY_HOST=0.0.0.0 SHARED_REGISTRY_PORT=9000
USER 10001:10001
EXPOSE 9000
# Healthy: this process answers. What else may be wrong, full replicas or a Redis that is down, no restart would mend, and
# it would end the sessions that go on. bash asks, for 2 ms of CPU: Python takes 50 to start, and `shared-registry` more.
# If the environment has the certificate, it asks at the admin address, which speaks no TLS; only if nobody listens there,
# Python asks by TLS. The check does not know what the file says.
HEALTHCHECK --interval=10s --timeout=10s --start-period=20s CMD ["bash", "-c", \
    "trap '' PIPE; host=${SHARED_REGISTRY_HOST:-127.0.0.1}; port=${SHARED_REGISTRY_PORT:-9000}; if [[ $SHARED_REGISTRY_TLS_CERTIFICATE_FILE ]]; then host=${SHARED_REGISTRY_ADMIN_HOST:-127.0.0.1}; [[ ${SHARED_REGISTRY_ADMIN_PORT:-auto} == auto ]] && port=$((port + 1000)) || port=$SHARED_REGISTRY_ADMIN_PORT; fi; if [[ ! $SHARED_REGISTRY_ADMIN_CLIENT_CA_FILE ]] && { exec 3<>/dev/tcp/$host/$port; } 2>/dev/null; then printf 'GET /healthz HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 && read -r -t 5 _ status _ <&3 && [[ $status == 200 ]] || exit 1; elif [[ $SHARED_REGISTRY_TLS_CERTIFICATE_FILE ]]; then exec python -I -c \"import http.client as h, os, ssl; e = os.environ.get; c = h.HTTPSConnection(e('SHARED_REGISTRY_HOST') or '127.0.0.1', int(e('SHARED_REGISTRY_PORT') or '9000'), timeout=5, context=ssl._create_unverified_context()); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)\"; else exit 1; fi"]
ENTRYPOINT ["shared-registry"]
CMD ["serve", "--config", "/etc/shared-registry/router.yaml"]
