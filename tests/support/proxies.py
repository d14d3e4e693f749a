"""Reverse proxies for tests: Debian's nginx and Caddy with the project's own examples, on loopback, with TLS."""

import os
import signal
import socket
import ssl
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from tests.support.server_process import PATIENCE, free_port, needs

EXAMPLES = Path(__file__).parents[2] / "configs" / "proxy"

_NGINX = """
daemon off;
{user}
pid {folder}/pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""

_CADDY = """
{{
	admin off
	skip_install_trust
	auto_https disable_redirects
	default_bind 127.0.0.1
}}
import {example}
"""


class Proxy(ABC):
    """A proxy that serves servers at `url`, under a path if `prefix` is given ("/paddock").

    `upstream` is the server's port, or the ports of several.
    """

    def __init__(self, folder: Path, upstream: int | Sequence[int], prefix: str = "") -> None:
        folder.mkdir()
        self.folder = folder
        self.prefix = prefix
        self.port = free_port()
        self.url = f"https://localhost:{self.port}{prefix}"
        ports = [upstream] if isinstance(upstream, int) else upstream
        self._upstreams = [f"127.0.0.1:{port}" for port in ports]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def authority(self) -> Path:
        """The certificate that its own is to be checked with."""

    @property
    def trust(self) -> ssl.SSLContext:
        """What a client trusts to reach it."""
        return ssl.create_default_context(cafile=str(self.authority))

    @abstractmethod
    def _command(self) -> tuple[list[str], dict[str, str]]:
        """Write its files; return the command and its environment."""

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command, environment = self._command()
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)
        began = time.monotonic()
        while True:
            assert self._process.poll() is None, self.log_text()
            assert time.monotonic() - began < PATIENCE, self.log_text()
            try:
                with (
                    socket.create_connection(("127.0.0.1", self.port), timeout=1) as plain,
                    self.trust.wrap_socket(plain, server_hostname="localhost"),
                ):
                    return
            except OSError:
                time.sleep(0.05)

    def stop(self) -> None:
        """Stop it, with all its connections."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(PATIENCE)

    def log_text(self) -> str:
        """Its log so far."""
        return (self.folder / "log").read_text(errors="replace")


class Nginx(Proxy):
    """nginx, with configs/proxy/nginx.conf: ports and certificate change, and for a prefix the two documented lines."""

    @property
    def authority(self) -> Path:
        return self.folder / "certificate.pem"

    def _command(self) -> tuple[list[str], dict[str, str]]:
        program, key = needs("nginx"), self.folder / "key.pem"
        made = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1")
        about = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
        subprocess.run(
            [needs("openssl"), *made, *about, "-keyout", key, "-out", self.authority], check=True, capture_output=True
        )
        changes = {
            "server 127.0.0.1:8000;": " ".join(f"server {each};" for each in self._upstreams),
            "listen 80;": f"listen 127.0.0.1:{free_port()};",
            "listen 443 ssl http2;": f"listen 127.0.0.1:{self.port} ssl http2;",
            "/etc/ssl/certs/videos.example.org.pem": str(self.authority),
            "/etc/ssl/private/videos.example.org.key": str(key),
        }
        if self.prefix:
            changes |= {
                "location / {": f"location {self.prefix}/ {{",
                'X-Forwarded-Prefix "";': f"X-Forwarded-Prefix {self.prefix};",
            }
        site = (EXAMPLES / "nginx.conf").read_text()
        for written, meant in changes.items():
            assert site.count(written) == 1, written
            site = site.replace(written, meant)
        (self.folder / "site.conf").write_text(site)
        user = "user root;" if os.geteuid() == 0 else ""
        (self.folder / "nginx.conf").write_text(_NGINX.format(folder=self.folder, user=user))
        return [program, "-p", str(self.folder), "-c", str(self.folder / "nginx.conf")], {}


class Caddy(Proxy):
    """Caddy, with configs/proxy/Caddyfile as it is, and an authority of its own for the certificate."""

    @property
    def authority(self) -> Path:
        return self.folder / "caddy" / "pki" / "authorities" / "local" / "root.crt"

    def _command(self) -> tuple[list[str], dict[str, str]]:
        (self.folder / "Caddyfile").write_text(_CADDY.format(example=EXAMPLES / "Caddyfile"))
        environment = {
            "PROXY_DOMAIN": f"https://localhost:{self.port}",
            "PROXY_PREFIX": self.prefix,
            "PROXY_UPSTREAM": " ".join(self._upstreams),
            "XDG_DATA_HOME": str(self.folder),
            "XDG_CONFIG_HOME": str(self.folder),
        }
        return [
            needs("caddy"),
            "run",
            "--config",
            str(self.folder / "Caddyfile"),
            "--adapter",
            "caddyfile",
        ], environment
