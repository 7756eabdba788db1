"""The TLS context for https replicas, for probes and for sessions. Its files are read again when they change."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import ssl
from collections.abc import Iterator
from typing import Any

from shared_registry.aio.daemon_thread import call_in_daemon_thread
from shared_registry.aio.from_files import Stamp, stamp_of
from shared_registry.config import RouterConfig
from shared_registry.probing.connection import reason_of
from shared_registry.probing.own_trouble import OwnTrouble, own_trouble

CHECK_SECONDS = 1.0
"""How often the files are checked for changes at most, when a connection is opened."""
RETRY_SECONDS = 10.0
"""How long after a failure files that did not change are read again."""

logger = logging.getLogger(__name__)


class TlsContexts:
    """One router's TLS context: created when it is first needed, and replaced when its files change.

    Connections that are open keep the context with which they were opened. If new files are not usable, such as a
    certificate whose key has not arrived yet, the former context stays in use.
    """

    def __init__(self, config: RouterConfig, context: ssl.SSLContext | None = None) -> None:
        """Set up; nothing is read before `context`.

        Args:
            config: Has the `replica_tls_*` settings.
            context: Used as it is, in place of one that the settings describe.
        """
        self._config = config
        self._fixed = context
        self._context: ssl.SSLContext | None = None
        self._read: tuple[Stamp, ...] = ()
        self._loading: asyncio.Task[ssl.SSLContext] | None = None
        self._check_at = 0.0
        self._retry_at = 0.0
        self._is_failing = False

    def server_name(self, host: str) -> str:
        """Return the name that the certificate of a replica must have."""
        return self._config.replica_tls_server_name or host

    def close(self) -> None:
        """Give up reading files. The thread that reads ends by itself."""
        if self._loading is not None:
            self._loading.cancel()

    async def context(self) -> ssl.SSLContext:
        """Return the context. Only the first call waits until the files are read, which takes tens of milliseconds.

        Raises:
            OwnTrouble: The files cannot be used, and no earlier ones could.
        """
        ready = self.ready()
        return await asyncio.shield(self._load()) if ready is None else ready

    def ready(self) -> ssl.SSLContext | None:
        """Return the context, if it can be had without waiting."""
        if self._fixed is not None:
            return self._fixed
        if self._context is None:
            return None
        now = asyncio.get_running_loop().time()
        if now >= self._check_at:
            self._check_at = now + CHECK_SECONDS
            if _stamp(self._config) != self._read or (self._is_failing and now >= self._retry_at):
                self._load()
        return self._context

    def _load(self) -> asyncio.Task[ssl.SSLContext]:
        if self._loading is None:
            self._loading = asyncio.create_task(self._read_files())
            self._loading.add_done_callback(self._loaded)
        return self._loading

    def _loaded(self, task: asyncio.Task[ssl.SSLContext]) -> None:
        self._loading = None
        if not task.cancelled():
            task.exception()  # a waiting caller gets it, if there is one

    async def _read_files(self) -> ssl.SSLContext:
        self._read = _stamp(self._config)
        try:
            context = await call_in_daemon_thread(lambda: default_context(self._config))
        except Exception as error:
            trouble = own_trouble(error) or tls_trouble(error)
            self._failed(trouble)
            if self._context is None:
                raise trouble from error
            return self._context
        if self._context is not None:
            logger.info("router: the TLS files for replicas have changed; new connections use them")
        self._context, self._is_failing = context, False
        return context

    def _failed(self, trouble: OwnTrouble) -> None:
        self._retry_at = asyncio.get_running_loop().time() + RETRY_SECONDS
        if self._context is not None and not self._is_failing:
            logger.warning("router: %s; the former files stay in use; %s", trouble, trouble.remedy)
        self._is_failing = self._context is not None


def default_context(config: RouterConfig | None = None) -> ssl.SSLContext:
    """Return a context as the `replica_tls_*` settings describe it. Blocks for tens of milliseconds.

    By default it trusts the system's authorities, or those that SSL_CERT_FILE and SSL_CERT_DIR name.

    Raises:
        OSError: The file of authorities cannot be read. The ssl module ignores this silently for the system's file. A
            context without any authority would then be kept, and the verification of every replica would fail.
        UnusableFile: A file of the settings cannot be used.
    """
    config = config or RouterConfig()
    if not config.replica_tls_verify:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif config.replica_tls_ca_file:
        with _named(config.replica_tls_ca_file):
            context = ssl.create_default_context(cafile=config.replica_tls_ca_file)
    else:
        context = _system_context()
    if config.replica_tls_certificate_file and config.replica_tls_key_file:
        with _named(f"{config.replica_tls_certificate_file} with {config.replica_tls_key_file}"):
            # Without the password argument, OpenSSL would ask for one at the terminal.
            context.load_cert_chain(config.replica_tls_certificate_file, config.replica_tls_key_file, lambda: "")
    context.set_alpn_protocols(["http/1.1"])
    context.__class__ = ResumingContext  # the standard library makes no default context of another class
    return context


def _system_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if paths.cafile and not context.cert_store_stats()["x509_ca"]:
        try:
            context.load_verify_locations(paths.cafile)
        except OSError as error:
            if not paths.capath or own_trouble(error) is not None:  # otherwise the directory may be enough
                raise
    return context


_session: contextvars.ContextVar[ssl.SSLSession | None] = contextvars.ContextVar("_session", default=None)


class ResumingContext(ssl.SSLContext):
    """A context whose connections resume the TLS session that `resuming` names."""

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        """Return the object for one connection; see `ssl.SSLContext`. Event loops call it."""
        session = _session.get()
        if session is not None:
            with contextlib.suppress(ValueError):  # a session of a context that has been replaced
                return super().wrap_bio(*args, **options | {"session": session})
        return super().wrap_bio(*args, **options)


@contextlib.contextmanager
def resuming(session: ssl.SSLSession | None) -> Iterator[None]:
    """Connections that this task opens in the block resume a session, which saves most of a handshake's cost.

    A replica whose certificate was verified in the first handshake is not verified again. So a session belongs to one
    replica and its name, and must not be resumed for long.
    """
    token = _session.set(session)
    try:
        yield
    finally:
        _session.reset(token)


class UnusableFile(Exception):
    """A file of the TLS settings cannot be used."""


@contextlib.contextmanager
def _named(files: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise UnusableFile(f"{files}: {reason_of(error)}") from error


def tls_trouble(error: Exception) -> OwnTrouble:
    """Return the trouble for an error of `default_context`. Its cause is in this router's files, not in a replica."""
    if isinstance(error, UnusableFile):
        return OwnTrouble(f"TLS settings of this router: {error}", "check the settings replica_tls_*")
    return OwnTrouble(f"TLS settings of this router: {reason_of(error)}", "check SSL_CERT_FILE and SSL_CERT_DIR")


def _stamp(config: RouterConfig) -> tuple[Stamp, ...]:
    """Return what changes when a file is written or replaced."""
    files = [config.replica_tls_certificate_file, config.replica_tls_key_file]
    if config.replica_tls_ca_file:
        files.append(config.replica_tls_ca_file)
    elif config.replica_tls_verify:
        paths = ssl.get_default_verify_paths()
        files += [paths.cafile, paths.capath]
    return tuple(stamp_of(file) for file in files if file)
