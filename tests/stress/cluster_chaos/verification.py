"""Checks every generation, attempt, file and event after the faults."""

import time
from collections import defaultdict
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.stress.cluster_chaos.leftovers import Leftovers
from tests.stress.cluster_chaos.system import PREFIX, System
from tests.support.object_store import BUCKET
from tests.support.server_process import TERMINAL, eventually

LEFT_SECONDS = 40.0
_HOURS = 3600.0


def verify(system: System, leftovers: Leftovers) -> dict[str, Any]:
    """Check everything; each figure that is a list must be empty."""
    rows = {id_: system.servers[0].wait_for(id_, *TERMINAL, timeout=_HOURS) for id_ in system.ids}
    ended = time.monotonic()
    succeeded = [id_ for id_, row in rows.items() if row["status"] == "succeeded"]
    spoilt = [
        f"{server.url} {id_}"
        for id_ in succeeded
        for server in system.servers
        # the path of a link is good on each server
        if httpx.get(server.url + urlsplit(rows[id_]["result_url"]).path).content != system.reference(id_)
    ]
    listed = set(system.ids)
    missing = [id_ for each in system.subscribers for id_ in sorted(listed - each.seen.keys())]
    wrong = _wrong_attempts(system)
    eventually(lambda: not _names(system, "checkpoints"), patience=120)
    videos = _names(system, "videos")
    artifacts = [row.artifact for row in system.query("SELECT artifact FROM generations WHERE artifact IS NOT NULL")]
    time.sleep(max(0.0, ended + LEFT_SECONDS - time.monotonic()))
    return {
        "generations": len(system.ids),
        "failed": [f"{id_}: {row['error_message']}" for id_, row in rows.items() if id_ not in succeeded],
        "spoilt": spoilt,
        "wrong_attempts": wrong,
        "attempts": len(system.attempts()),
        "files_without_row": sorted(set(videos) - set(artifacts)),
        "rows_without_file": sorted(set(artifacts) - set(videos)),
        "events_missing": missing,
        "events_repeated": [id_ for each in system.subscribers for id_ in sorted(each.repeated & listed)],
        "processes_left": leftovers.now,
        "longest_leftover_s": round(leftovers.longest, 1),
    }


def _wrong_attempts(system: System) -> list[str]:
    outcomes = defaultdict(list)
    for each in system.attempts():
        outcomes[each.generation_id].append(each)
    return [
        f"{id_}: {[(each.attempt, each.outcome) for each in tried]}"
        for id_, tried in outcomes.items()
        if [each.attempt for each in tried] != list(range(1, len(tried) + 1))
        or [each.outcome for each in tried].count("succeeded") != 1
        or any(each.outcome is None for each in tried)
    ]


def _names(system: System, kind: str) -> list[str]:
    prefix = f"{PREFIX}/{kind}/"
    pages = system.store.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return [each["Key"].removeprefix(prefix) for page in pages for each in page.get("Contents", [])]
