"""Kills at random moments: none lost, none recorded twice, no orphan. `benchmarks.chaos` does it on a larger scale."""

import random
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import httpx
import psutil

from tests.e2e.test_recovery import attempt_log
from tests.support import ServerProcess
from tests.video import read_video

GENERATIONS = 20
KILLS = 14
SEED = 20261124


def test_kills_at_random_moments_lose_and_double_nothing(
    start_server: Callable[..., ServerProcess],
) -> None:
    server = start_server()
    dice = random.Random(SEED)
    ids = [server.enqueue(seed=number, num_inference_steps=8) for number in range(GENERATIONS)]
    workers: set[int] = set()
    killed: Counter[str] = Counter()

    while killed.total() < KILLS:
        # from before the worker has started to after several generations
        time.sleep(dice.uniform(0.0, 6.0))
        workers.update(pids := server.worker_pids())
        if dice.random() < 0.5:
            server.kill()
            server.start()
            killed["server"] += 1
        elif pids:
            psutil.Process(pids[0]).kill()
            killed["worker"] += 1
        if not server.http.get("/queue").json()["count"]:
            # all done sooner than all killed: more of the same keeps the kills among running ones
            ids.append(server.enqueue(seed=len(ids), num_inference_steps=8))
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
    assert killed["server"] >= 4, killed
    assert killed["worker"] >= 3, killed
    assert sum(row["status"] == "failed" for row in rows) <= killed["worker"] // 2

    started = [row["started_at"] for row in rows if row["status"] == "succeeded"]
    assert all(earlier <= later for earlier, later in pairwise(started))
    files = sorted(path.name for path in (server.data_dir / "videos").iterdir())
    assert len(files) == sum(row["status"] == "succeeded" for row in rows), files
    last = server.worker_pids()
    server.stop()
    assert not [pid for pid in workers | set(last) if psutil.pid_exists(pid)]
