"""A seed is a promise: the same bytes again, also from a server that was started anew."""

from collections.abc import Callable

from tests.support.server_process import ServerProcess


def test_the_same_seed_is_the_same_file_also_from_another_start(
    server: ServerProcess, start_server: Callable[..., ServerProcess]
) -> None:
    first = server.video(server.enqueue(seed=7))
    assert server.video(server.enqueue(seed=8)) != first
    assert server.video(server.enqueue(seed=7)) == first

    anew = start_server()

    assert anew.video(anew.enqueue(seed=7)) == first


def test_without_a_seed_one_is_drawn_told_and_makes_the_video_again(server: ServerProcess) -> None:
    ids = [server.enqueue() for _ in range(2)]
    videos = [server.video(id_) for id_ in ids]
    seeds = [server.row(id_)["seed"] for id_ in ids]

    assert len(set(seeds)) == 2
    assert videos[0] != videos[1]
    assert server.video(server.enqueue(seed=seeds[0])) == videos[0]
