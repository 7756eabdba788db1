"""Which Redis urls are accepted, and that no message or display ever holds a password."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared_registry.errors import ConfigError
from shared_registry.store.redis_url import (
    REDIS_SCHEMES,
    RedisAddress,
    RedisKind,
    check_redis_url,
    mask_redis_url,
    parse_redis_url,
)

ACCEPTED_AND_SHOWN = [
    ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
    ("redis://host", "redis://host"),
    ("redis://host/", "redis://host/"),
    ("redis://[::1]:6379/3", "redis://[::1]:6379/3"),
    ("rediss://user:secret@host:6380/1", "rediss://user:***@host:6380/1"),
    ("redis://:secret@host", "redis://:***@host"),
    ("redis://secret@host", "redis://***@host"),
    ("redis://user:@host", "redis://user:***@host"),
    ("redis://:s@cret@host", "redis://:***@host"),
    ("redis://:%2Fsecret%40@host", "redis://:***@host"),
    ("redis://host/0?password=secret&username=u", "redis://host/0?password=***&username=u"),
    ("redis://host?p%61ssword=secret", "redis://host?p%61ssword=***"),
    (
        "rediss+sentinel://host/main?ssl_certfile=f&ssl_password=secret&sentinel_password=secret",
        "rediss+sentinel://host/main?ssl_certfile=f&ssl_password=***&sentinel_password=***",
    ),
    ("valkey://:secret@host", "valkey://:***@host"),
    ("valkeys://host/1?ssl_cert_reqs=none", "valkeys://host/1?ssl_cert_reqs=none"),
    ("rediss+cluster://u:secret@h1,h2?ssl_ca_certs=%2Fca.pem", "rediss+cluster://u:***@h1,h2?ssl_ca_certs=%2Fca.pem"),
    ("unix:///run/redis.sock", "unix:///run/redis.sock"),
    ("unix:///run/redis%401/redis.sock?db=2", "unix:///run/redis%401/redis.sock?db=2"),
    ("unix://user:secret@/run/redis.sock", "unix://user:***@/run/redis.sock"),
    ("redis+sentinel://h1:26379,h2:26379/mymaster/0", "redis+sentinel://h1:26379,h2:26379/mymaster/0"),
    ("redis+sentinel://:secret@h1,[::1]:5/mymaster", "redis+sentinel://:***@h1,[::1]:5/mymaster"),
    ("redis+cluster://u:secret@h1:7000,h2:7001", "redis+cluster://u:***@h1:7000,h2:7001"),
    ("redis+cluster://h1/0", "redis+cluster://h1/0"),
]

REFUSED = [
    (None, "text"),
    (6379, "text"),
    ("", "scheme"),
    ("localhost:6379", "scheme"),
    ("secret@host", "scheme"),
    ("http://:secret@host", "redis\\+sentinel"),
    ("REDIS://host", "scheme"),
    ("valkey+sentinel://:secret@host", "scheme"),
    ("redis://", "host:port"),
    ("redis:///0", "host:port"),
    ("redis://:6379", "host:port"),
    ("redis://:secret", "host:port"),
    ("redis://user:secret", "host:port"),
    ("redis://h1:6379,h2:6379", "host:port"),
    ("redis://host:0", "ports 1 to 65535"),
    ("redis://host:65536", "ports 1 to 65535"),
    ("redis://host:6379/mymaster", "database number"),
    ("redis://host/0/1", "database number"),
    ("redis://host/-1", "database number"),
    ("redis://:se/cret@host", "host:port|percent-encode"),
    ("redis://u/secret@host", "percent-encode"),
    ("redis://u?secret@host", "percent-encode"),
    ("redis://:secret#x@host", "percent-encode"),
    ("redis://host/0#secret", "percent-encode"),
    ("redis://:sec ret@host", "white space"),
    ("redis://:secret@host\n", "white space"),
    ("redis://:secret@host\x00", "control"),
    ("unix://run/redis.sock", "absolute path"),
    ("unix://", "absolute path"),
    ("unix:///", "absolute path"),
    ("unix://u:sec/ret@/run/redis.sock", "percent-encode"),
    ("unix:///:secret@/run/redis.sock", "percent-encode"),
    ("unix:///run/redis@1.sock", "percent-encode"),
    ("unix://?:secret@/run/redis.sock", "percent-encode"),
    ("redis+sentinel://h1:26379,h2:26379", "master"),
    ("redis+sentinel://h1:26379/", "master"),
    ("redis+sentinel://h1:26379/m/x", "master"),
    ("redis+sentinel://h1,,h2/m", "several"),
    ("redis+cluster://h1:7000/1", "database 0"),
    ("redis+cluster://:secret@", "several"),
    ("redis://host?nonsense=1", "option nonsense is unknown for redis://; known here: username, password, db"),
    ("redis+sentinel://h/m?nonsense=1", "option nonsense is unknown"),
    ("redis+cluster://h?nonsense=1", "option nonsense is unknown"),
    ("redis+cluster://h?db=0", "option db is unknown"),
    ("rediss://host?ssl_ca_cert=f", "did you mean ssl_ca_certs"),
    ("redis+sentinel://h/m?sentinel_pasword=secret", "did you mean sentinel_password"),
    ("redis://host?sentinel_password=secret", "option sentinel_password is unknown"),
    ("redis://host?ssl_ca_certs=f", "needs TLS.*write rediss://"),
    ("redis+cluster://host?ssl_cert_reqs=none", "needs TLS.*write rediss\\+cluster://"),
    ("valkey://host?ssl_cert_reqs=none", "needs TLS.*write valkeys://"),
    ("redis://host?secret", "an option that is unknown"),
    ("redis://host?a+secret=1", "an option that is unknown"),
    ("redis://host?db=1&db=2", "db is given twice"),
    ("redis://host/1?db=2", "two databases"),
    ("redis://host?db=one", "database number"),
    ("redis://u:secret@host?password=secret", "password twice"),
    ("redis://u:secret@host?username=v", "username twice"),
    ("rediss://host?ssl_cert_reqs=never", "required, optional, none"),
    ("rediss://host?ssl_check_hostname=perhaps", "true, false"),
    ("rediss://host?ssl_ca_certs=", "is empty"),
    ("rediss://host?ssl_keyfile=f", "ssl_certfile"),
]


@pytest.mark.parametrize(("url", "shown"), ACCEPTED_AND_SHOWN)
def test_a_good_url_is_kept_and_shown_without_its_password(url: str, shown: str) -> None:
    assert check_redis_url(url) == url
    assert mask_redis_url(url) == shown


@pytest.mark.parametrize(("url", "message"), REFUSED)
def test_a_bad_url_is_refused_without_showing_a_secret(url: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        check_redis_url(url, "redis_url")
    assert str(caught.value).startswith("redis_url: ")
    assert not [part for part in ("sec", "cret") if part in str(caught.value)]


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://host", RedisAddress(RedisKind.SERVER, hosts=(("host", 6379),))),
        ("valkeys://h:1/2", RedisAddress(RedisKind.SERVER, is_tls=True, hosts=(("h", 1),), database=2)),
        ("unix:///a%20b.sock?db=3", RedisAddress(RedisKind.SOCKET, path="/a b.sock", database=3)),
        (
            "redis+sentinel://u:p%2F%40@h1,[::1]:5/my%20main/4?sentinel_username=s&sentinel_password=t",
            RedisAddress(
                RedisKind.SENTINEL,
                hosts=(("h1", 26379), ("::1", 5)),
                master="my main",
                database=4,
                username="u",
                password="p/@",
                sentinel_username="s",
                sentinel_password="t",
            ),
        ),
        (
            "rediss+cluster://:p@h1:1,h2?ssl_ca_certs=%2Fca&ssl_check_hostname=False&ssl_cert_reqs=optional",
            RedisAddress(
                RedisKind.CLUSTER,
                is_tls=True,
                hosts=(("h1", 1), ("h2", 6379)),
                password="p",
                tls={"ssl_ca_certs": "/ca", "ssl_check_hostname": False, "ssl_cert_reqs": "optional"},
            ),
        ),
    ],
)
def test_the_parts_of_a_url_are_read(url: str, address: RedisAddress) -> None:
    assert parse_redis_url(url) == address


def test_a_timeout_is_a_setting() -> None:
    with pytest.raises(ConfigError, match="socket_timeout is not supported; use the setting redis_timeout_seconds"):
        check_redis_url("redis://host?socket_timeout=3")


def test_an_address_shows_no_secret() -> None:
    url = "rediss+sentinel://u:secret@h/m?sentinel_password=secret&ssl_certfile=f&ssl_password=secret"
    assert "secret" not in repr(parse_redis_url(url))


@pytest.mark.parametrize(
    ("url", "shown"), [("localhost:6379", "***"), ("http://h", "***"), ("redis://:pw", "redis://***")]
)
def test_of_a_malformed_url_only_a_known_scheme_is_shown(url: str, shown: str) -> None:
    assert mask_redis_url(url) == shown


@example(scheme="unix", user="?", password="0000", rest="host:6379/0")
@example(scheme="unix", user="/", password="0000", rest="/run/redis.sock")
@given(
    scheme=st.sampled_from([*REDIS_SCHEMES, "http", "valkey+cluster"]),
    user=st.text(max_size=5),
    password=st.text(min_size=4),
    rest=st.sampled_from(
        ["host:6379/0", "h1:1,h2:2/master/0", "/run/redis.sock", "", "host?db=1", "host?ssl_ca_certs=f"]
    ),
)
def test_no_password_is_ever_shown_in_any_spelling(scheme: str, user: str, password: str, rest: str) -> None:
    password = f"<{password}>"  # marks that neither masks nor remedies contain
    url = f"{scheme}://{user}:{password}@{rest}"
    assert password not in mask_redis_url(url)
    try:
        check_redis_url(url)
    except ConfigError as error:
        assert password not in str(error)
