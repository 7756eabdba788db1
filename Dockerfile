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
    && python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; extras = p["optional-dependencies"]; print(*p["dependencies"], *extras["cli"], *extras["router"], sep="\n")' \
    | /app/bin/pip install --quiet --requirement /dev/stdin
COPY README.md LICENSE ./
COPY lua lua
COPY shared_registry shared_registry
RUN /app/bin/pip install --quiet --no-deps . && /app/bin/pip uninstall --quiet --yes pip setuptools

FROM python:3.11-slim-bookworm
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 9000
# Healthy: Redis answers, and there is a replica that may take a session.
HEALTHCHECK --interval=10s --timeout=10s --start-period=20s CMD ["shared-registry", "wait", "--ready", "1", "--timeout", "3"]
ENTRYPOINT ["shared-registry"]
CMD ["serve", "--config", "/etc/shared-registry/router.yaml"]
