"""What compose.servers.yaml starts, without a container engine: the same processes with the same environment.

Addresses are of this machine, moto is in SeaweedFS's place, and the weights are the demo's.
"""

import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from functools import reduce
from pathlib import Path

import httpx
import pytest
from sqlalchemy import make_url

from tests.support.compose import ROOT, composed, image_environment
from tests.support.object_store import ObjectStoreServer
from tests.support.proxies import Caddy
from tests.support.server_process import CLEAN_ENDS, PATIENCE, SMALL, ServerProcess, eventually

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(1200)]

MOUNTED = "/run/secrets/"
LONG = {**SMALL, "width": 256, "height": 256, "num_frames": 9, "num_inference_steps": 40}


class Composed:
    """The two servers and the proxy in front of them; `http` asks the proxy with the key that the first start made."""

    def __init__(self, one: ServerProcess, two: ServerProcess, proxy: Caddy) -> None:
        self.one, self.two, self.proxy = one, two, proxy
        (key,) = re.findall(r"shown only now: (\S+)", one.log_text())
        # both look at the database, where one of them has put it
        assert "shown only now" not in two.log_text()
        self.http = httpx.Client(
            base_url=proxy.url, verify=proxy.trust, timeout=PATIENCE, headers={"Authorization": f"Bearer {key}"}
        )

    def enqueue(self, **changes: object) -> str:
        answer = self.http.post("/api/ai/queue", json={**SMALL, **changes})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["generations"][0]["generation_id"])

    def status(self, id_: str) -> str:
        return str(self.http.get(f"/api/ai/queue/{id_}").json()["status"])

    def video(self, id_: str, patience: float = PATIENCE) -> tuple[str, bytes]:
        """A video's link and its bytes, when it is made."""
        eventually(lambda: self.status(id_) == "succeeded", self.one, patience)
        url = str(self.http.get(f"/api/ai/queue/{id_}").json()["result_url"])
        return url, self.http.get(url).content


@pytest.fixture
def servers(tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Composed]:
    with ExitStack() as stack:
        secrets = tmp_path / "secrets"
        subprocess.run(["sh", ROOT / "configs/compose/secrets.sh", secrets], check=True, capture_output=True)
        config = secrets / "paddock.toml"
        (address,) = re.findall(r'"(.*)"', config.read_text())
        # the password, too, as it is: the server of the tests does not ask for it
        meant = make_url(postgres_url).set(password=make_url(address).password)
        config.write_text(config.read_text().replace(address, meant.render_as_string(hide_password=False)))
        store = ObjectStoreServer()
        stack.callback(store.stop)
        one, two = ServerProcess(tmp_path / "one"), ServerProcess(tmp_path / "two")
        proxy = Caddy(tmp_path / "proxy", [one.port, two.port])
        content = composed("compose.servers.yaml", {"HOME": str(tmp_path), "PROXY_DOMAIN": f"localhost:{proxy.port}"})
        mapped = {
            MOUNTED: f"{secrets}/",
            "http://seaweedfs:8333": store.url,
            "172.30.84.0/24": "127.0.0.1",
            "0.0.0.0": "127.0.0.1",  # noqa: S104 - it is replaced
        }
        for server, name in ((one, "one"), (two, "two")):
            variables = image_environment() | content["services"][name]["environment"]
            bucket = variables["PADDOCK_FILES_URL"].removeprefix("s3://")
            for variable, value in variables.items():
                # the data directory and the weights are the test's
                if variable not in ("PADDOCK_DATA_DIR", "HF_HOME"):
                    monkeypatch.setenv(variable, reduce(lambda text, each: text.replace(*each), mapped.items(), value))
            if name == "one":
                store.client().create_bucket(Bucket=bucket)
            stack.callback(server.close)
            server.start()
        stack.callback(proxy.stop)
        proxy.start()
        started = Composed(one, two, proxy)
        stack.callback(started.http.close)
        yield started


def test_two_servers_are_one_and_one_of_them_may_be_killed(servers: Composed) -> None:
    # more than one, so that both make some
    ids = [servers.enqueue(seed=seed) for seed in range(6)]
    videos = dict(servers.video(id_) for id_ in ids)
    for url, video in videos.items():
        assert url.startswith(f"{servers.proxy.url}/api/files/")
        assert video[4:8] == b"ftyp"
        # whichever made it
        for server in (servers.one, servers.two):
            answer = httpx.get(url.replace(servers.proxy.url, server.url))
            assert (answer.status_code, answer.content) == (200, video)
    with servers.http.stream("GET", "/api/events") as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith("id: ")
        # what a silent stream gets comes at once as well
        assert any(line.startswith(":") and not line[1:].isspace() for line in lines)

    long = [servers.enqueue(**LONG, seed=seed) for seed in (1, 2)]
    eventually(lambda: {servers.status(id_) for id_ in long} == {"processing"}, servers.one)
    servers.one.kill()

    # none of them is told
    for _ in range(10):
        assert servers.http.get("/api/ai/models").status_code == 200
    after = servers.enqueue(seed=7)
    for url, video in videos.items():
        assert servers.http.get(url).content == video
    # the one that the killed server had runs when its lease is over
    for id_ in (*long, after):
        assert servers.video(id_, patience=600)[1][4:8] == b"ftyp"

    servers.one.start()
    assert servers.one.log_text().count("shown only now") == 1
    assert servers.one.stop() in CLEAN_ENDS
    assert servers.http.get("/api/ai/models").status_code == 200
    assert servers.two.stop() in CLEAN_ENDS
