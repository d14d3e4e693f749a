"""What a key's requests that are still open come to when the key is revoked."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx
from sqlalchemy import select

from server.storage.db.api_keys import KeyRing
from server.storage.db.connection import opened
from server.storage.db.schema import generations
from tests.contract.test_http import error_of, history
from tests.support.chat_server import ChatServer, held
from tests.support.server_process import ENDLESS, SMALL, ServerProcess, eventually


def test_a_sync_request_of_a_revoked_key_ends(start_server: Callable[..., ServerProcess]) -> None:
    anonymous = start_server()
    with opened(f"sqlite:///{anonymous.data_dir / 'paddock.db'}") as engine:
        ring = KeyRing(engine)
        revoked, other = ring.add("revoked"), ring.add("other")
        eventually(lambda: anonymous.http.get("/queue").status_code == 401, anonymous)
        mine, theirs = anonymous.with_key(revoked), anonymous.with_key(other)
        with closing(mine.http), closing(theirs.http), ThreadPoolExecutor() as pool:
            theirs.wait_for(theirs.enqueue(**ENDLESS), "processing")

            def generate(server: ServerProcess, **params: Any) -> httpx.Response:
                return server.http.post("/videos/generate", json={**SMALL, **params})

            ended = pool.submit(generate, mine, prompt="of the revoked key")
            kept = pool.submit(generate, theirs, prompt="of the other key")
            eventually(lambda: history(mine) and len(history(theirs)) > 1, anonymous)
            row = history(mine)[0]["generation_id"]
            ring.revoke("revoked")

            error_of(ended.result(60), 401)
            assert not kept.done()
            for generation in theirs.http.get("/queue").json()["generations"]:
                theirs.http.delete(f"/queue/{generation['generation_id']}")
            assert kept.result(60).status_code in (200, 409)
        with engine.connect() as connection:
            assert connection.scalar(select(generations.c.status).where(generations.c.id == row)) == "cancelled"


def test_a_prompt_is_not_enhanced_for_a_revoked_key(
    start_server: Callable[..., ServerProcess], chat: ChatServer
) -> None:
    anonymous = start_server(**chat.settings())
    chat.answer = held(chat)
    with opened(f"sqlite:///{anonymous.data_dir / 'paddock.db'}") as engine:
        ring = KeyRing(engine)
        revoked = ring.add("revoked")
        eventually(lambda: anonymous.http.get("/queue").status_code == 401, anonymous)
        mine = anonymous.with_key(revoked)
        with closing(mine.http), ThreadPoolExecutor() as pool:
            asking = pool.submit(mine.http.post, "/prompts/enhance", json={"prompt": "an ox"})
            eventually(lambda: chat.asked, anonymous)
            ring.revoke("revoked")

            error_of(asking.result(60), 401)
