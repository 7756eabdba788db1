"""Which Redis urls are accepted, and that no message or display ever holds a password."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared_registry.errors import ConfigError
from shared_registry.store.redis_url import check_redis_url, mask_redis_url

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
    ("redis://host/0?password=secret&protocol=3", "redis://host/0?password=***&protocol=3"),
    ("redis://host?p%61ssword=secret", "redis://host?p%61ssword=***"),
    (
        "redis://host?ssl_password=secret&sentinel_PASSWORD=secret",
        "redis://host?ssl_password=***&sentinel_PASSWORD=***",
    ),
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
    ("valkey://:secret@host", "scheme"),
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
    ("url", "shown"), [("localhost:6379", "***"), ("http://h", "***"), ("redis://:pw", "redis://***")]
)
def test_of_a_malformed_url_only_a_known_scheme_is_shown(url: str, shown: str) -> None:
    assert mask_redis_url(url) == shown


@example(scheme="unix", user="?", password="0000", rest="host:6379/0")
@example(scheme="unix", user="/", password="0000", rest="/run/redis.sock")
@given(
    scheme=st.sampled_from(["redis", "rediss", "unix", "redis+sentinel", "redis+cluster", "http", "valkey"]),
    user=st.text(max_size=5),
    password=st.text(min_size=4),
    rest=st.sampled_from(["host:6379/0", "h1:1,h2:2/master/0", "/run/redis.sock", "", "host?db=1"]),
)
def test_no_password_is_ever_shown_in_any_spelling(scheme: str, user: str, password: str, rest: str) -> None:
    password = f"<{password}>"  # marks that neither masks nor remedies contain
    url = f"{scheme}://{user}:{password}@{rest}"
    assert password not in mask_redis_url(url)
    try:
        check_redis_url(url)
    except ConfigError as error:
        assert password not in str(error)
