"""An S3 server for tests: moto's, in this process. It can go away and come back."""

import logging
import socket
from typing import Any
from uuid import uuid4

import pytest

BUCKET = "paddock-files"


class ObjectStoreServer:
    """Keeps one bucket in memory; `environment` is what a client of it needs."""

    def __init__(self) -> None:
        # late: it imports the services of a whole cloud
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.url = f"http://{host}:{port}"
        self.environment = {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "not-a-secret-of-anybody",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.url,
        }
        self.client().create_bucket(Bucket=BUCKET)

    def client(self) -> Any:
        """A client of Amazon's own, to look at the bucket from outside."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def use(self, monkeypatch: pytest.MonkeyPatch) -> str:
        """Have this process use it; returns the URL of an empty prefix."""
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)
        return f"s3://{BUCKET}/{uuid4().hex}"

    def stop(self) -> None:
        """End it."""
        self._server.stop()


def nowhere(monkeypatch: pytest.MonkeyPatch) -> str:
    """Have this process use a server that is not there; returns a URL."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    return f"s3://{BUCKET}/away"
