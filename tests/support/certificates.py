"""Certificates of a test's own, made by openssl: authorities, and what they sign."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

_CONFIG = """[req]
distinguished_name=name
prompt=no
[name]
CN={name}
[authority]
basicConstraints=critical,CA:TRUE
keyUsage=critical,digitalSignature,keyCertSign
subjectKeyIdentifier=hash
[end]
basicConstraints=critical,CA:FALSE
subjectAltName={alternatives}
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
"""


class Authority:
    """A certificate authority in a folder. `ca` is its file of trusted authorities."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self.folder = folder
        self.ca = folder / f"{name}.pem"
        self._key = folder / f"{name}.key"
        config = self._configure(name, "DNS:unused")
        words = f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -config {config}"
        self._openssl(f"{words} -extensions authority -keyout {self._key} -out {self.ca}")

    def sign(self, name: str, alternatives: str = "IP:127.0.0.1", *, days: int = 2) -> tuple[Path, Path]:
        """Return the files of a new certificate, valid for so many days, and of its key."""
        certificate, key, request = (self.folder / f"{name}{end}" for end in (".crt", ".key", ".csr"))
        config = self._configure(name, alternatives)
        words = f"req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -config {config}"
        self._openssl(f"{words} -keyout {key} -out {request}")
        words = f"x509 -req -in {request} -CA {self.ca} -CAkey {self._key} -CAcreateserial {self._period(days)}"
        self._openssl(f"{words} -extfile {config} -extensions end -out {certificate}")
        return certificate, key

    def _period(self, days: int) -> str:
        """Return the options for a certificate of so many days; OpenSSL 3.4 and later accept no days below 0."""
        if days < 0 and "-not_after" in self._openssl("x509 -help"):
            return "-not_before 20200101000000Z -not_after 20200102000000Z"
        return f"-days {days}"

    def server(self, name: str = "replica", alternatives: str = "IP:127.0.0.1") -> ssl.SSLContext:
        """Return the context of a server with a new certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.sign(name, alternatives))
        return context

    def _configure(self, name: str, alternatives: str) -> Path:
        config = self.folder / f"{name}.cnf"
        config.write_text(_CONFIG.format(name=name, alternatives=alternatives))
        return config

    def _openssl(self, words: str) -> str:
        program = shutil.which("openssl")
        if program is None:
            if os.environ.get("CI") == "true":
                pytest.fail("openssl is not installed")
            pytest.skip("openssl is not installed")
        done = subprocess.run([program, *words.split()], cwd=self.folder, check=True, capture_output=True, text=True)
        return done.stdout + done.stderr
