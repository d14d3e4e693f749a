"""Kills at all sorts of moments: none lost, none recorded twice, no orphan. `tests.stress.chaos` makes many more."""

import random
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise, product

import httpx
import psutil
import pytest

from server.core.retry import SERVER_DEATHS_IN_PLACE
from tests.e2e.test_recovery import attempt_log, first_workers
from tests.support.server_process import ServerProcess, eventually
from tests.support.video import read_video

pytestmark = pytest.mark.heavy

QUEUED = 4
SEED = 20261124


def at_once(_server: ServerProcess) -> None:
    """Where its worker has just been killed: before the next has started."""


def while_its_worker_loads(server: ServerProcess) -> None:
    first_workers(server)


def amid_a_generation(server: ServerProcess) -> None:
    eventually(lambda: any(row["eta_seconds"] for row in server.listed("processing")), server)


def after_several(server: ServerProcess) -> None:
    before = len(server.listed("succeeded"))
    eventually(lambda: len(server.listed("succeeded")) >= before + 2, server)


MOMENTS = (at_once, while_its_worker_loads, amid_a_generation, after_several)
KILLS = list(product(("server", "worker"), MOMENTS))


def test_kills_at_all_moments_lose_and_double_nothing(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server()
    dice = random.Random(SEED)
    ids: list[str] = []
    workers: set[int] = set()
    killed: Counter[str] = Counter()

    for victim, moment in dice.sample(KILLS, len(KILLS)):
        # each kill is one among several that run or wait
        while len(server.listed("queued")) < QUEUED:
            ids.append(server.enqueue(seed=len(ids), num_inference_steps=16))
        moment(server)
        time.sleep(dice.uniform(0.0, 0.3))
        workers.update(pids := server.worker_pids())
        if victim == "server":
            server.kill()
            server.start()
            killed["server"] += 1
        elif pids:
            psutil.Process(pids[0]).kill()
            killed["worker"] += 1
    rows = [server.wait_for(id_, timeout=180) for id_ in ids]

    outcomes = {id_: [] for id_ in ids}
    for id_, attempt, outcome in sorted(attempt_log(server.data_dir), key=lambda entry: entry[1]):
        outcomes[id_].append((attempt, outcome))
    for row in rows:
        tried = outcomes[row["generation_id"]]
        assert [attempt for attempt, _ in tried] == list(range(1, len(tried) + 1))
        ends = [outcome for _, outcome in tried]
        # two worker deaths without progress between them are a failure by the rule, not a loss
        assert row["status"] in ("succeeded", "failed"), row
        if row["status"] == "succeeded":
            assert Counter(ends)["succeeded"] == 1
            assert ends[-1] == "succeeded"
            assert read_video(httpx.get(row["result_url"]).content).shape == (5, 64, 64, 3)
        else:
            assert "died 2 times in a row" in row["error_message"]
            assert ends[-1] == "worker_died"
            assert Counter(ends)["worker_died"] >= 2
    assert killed["server"] == len(MOMENTS)
    # there may be none to kill at once
    assert killed["worker"] >= len(MOMENTS) - 1
    assert sum(row["status"] == "failed" for row in rows) <= killed["worker"] // 2

    # a generation whose server died more often may have been moved to the end of the queue
    kept_place = [
        row
        for row in rows
        if [end for _, end in outcomes[row["generation_id"]]].count("abandoned") <= SERVER_DEATHS_IN_PLACE
    ]
    started = [row["started_at"] for row in kept_place if row["status"] == "succeeded"]
    assert len(kept_place) > len(rows) / 2
    assert all(earlier <= later for earlier, later in pairwise(started))
    files = sorted(path.name for path in (server.data_dir / "videos").iterdir())
    assert len(files) == sum(row["status"] == "succeeded" for row in rows), files
    last = server.worker_pids()
    server.stop()
    assert not [pid for pid in workers | set(last) if psutil.pid_exists(pid)]
