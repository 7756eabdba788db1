"""The tokens of the admin address, as settings."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from shared_registry.api.address import admin_address
from shared_registry.config import RouterConfig
from shared_registry.config.admin_tokens import check_admin_tokens
from shared_registry.errors import ConfigError


def test_an_unusable_file_of_tokens_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    for text in ("", "ops: sk-old-0123456789", "ops: sk-old-0123456789 dance", None):
        if text is None:
            file.unlink()
        else:
            file.write_text(text)
        config = RouterConfig(admin_port=0, admin_tokens_file=str(file))
        with pytest.raises(ConfigError, match=r"^admin_tokens_file: ") as caught, admin_address(config):
            pass
        assert "sk-old" not in str(caught.value)


def test_tokens_are_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    secret = "sk-secret-0123456789"
    with caplog.at_level(logging.DEBUG):
        config = RouterConfig(admin_tokens=check_admin_tokens([f"ops: {secret} operate"]))
    digest = config.admin_tokens[0].digest.hex()
    for text in (repr(config), str(config.shown()), json.dumps(config.shown(), default=str), caplog.text):
        assert secret not in text
        assert digest not in text
    assert "ops: *** operate read" in str(config.shown())
    assert check_admin_tokens(["a: sk-0123456789abcdef operate"])[0].rights == {"read", "operate"}
