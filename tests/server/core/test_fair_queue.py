"""Deferred generations at the end of the queue. tests/contract/store/test_fair_queue.py tests the rest."""

from server.core.fair_queue import Deferred, FairQueue, Turn, Waiting, Weights, predicted_order


def order(
    waiting: list[Waiting],
    *deferred: Deferred,
    turns: dict[str, Turn] | None = None,
    holding: Weights | None = None,
    max_overtakes: int = 4,
) -> list[int]:
    """The order in which one device takes the queue."""
    return [*predicted_order(FairQueue(waiting, [], turns or {}, max_overtakes, deferred), [holding])]


def test_a_deferred_generation_waits_for_all_older_ones_and_no_others() -> None:
    waiting = [Waiting(seq, tenant, "a") for seq, tenant in ((2, "x"), (3, "y"), (4, "y"), (6, "z"), (7, "z"))]

    # y's turns alternate with z's; 5 was the youngest generation when 1 was deferred
    assert order(waiting, Deferred(5, Waiting(1, "x", "a"))) == [2, 3, 6, 4, 1, 7]


def test_alone_in_the_queue_a_deferred_generation_is_next() -> None:
    assert order([], Deferred(9, Waiting(1, "x", "a"))) == [1]


def test_neither_its_model_nor_its_tenants_turn_moves_it_forward() -> None:
    waiting = [Waiting(2, "x", "b"), Waiting(3, "y", "b"), Waiting(4, "y", "b")]
    turns = {"y": Turn(5)}

    assert order(waiting, Deferred(4, Waiting(1, "x", "a")), turns=turns, holding=Weights("a")) == [2, 3, 4, 1]


def test_after_all_older_ones_it_runs_before_its_tenants_younger_ones() -> None:
    waiting = [Waiting(2, "x", "b"), Waiting(6, "x", "b"), Waiting(7, "x", "b")]

    assert order(waiting, Deferred(5, Waiting(1, "x", "a")), holding=Weights("b")) == [2, 1, 6, 7]


def test_deferred_generations_run_in_the_order_of_their_deferral() -> None:
    deferred = [Deferred(3, Waiting(2, "x", "a")), Deferred(5, Waiting(1, "x", "a"))]

    assert order([Waiting(4, "x", "a")], *deferred) == [2, 4, 1]


def test_its_tenants_turn_determines_its_place_among_younger_ones() -> None:
    waiting = [Waiting(4, "y", "a"), Waiting(5, "z", "a"), Waiting(6, "y", "a"), Waiting(7, "z", "a")]
    turns = {"x": Turn(2), "y": Turn(1), "z": Turn(3)}

    assert order(waiting, Deferred(3, Waiting(1, "x", "a")), turns=turns) == [4, 1, 5, 6, 7]


def test_the_same_variant_goes_first_then_the_same_model() -> None:
    needed = [("b", ""), ("a", "1"), ("a", "2"), ("a", ""), ("a", "2")]
    waiting = [Waiting(seq, "x", *weights) for seq, weights in enumerate(needed)]

    assert order(waiting, holding=Weights("a", "2")) == [2, 4, 1, 3, 0]
    assert order(waiting, holding=Weights("a", "3")) == [1, 2, 4, 3, 0]
    assert order(waiting, holding=Weights("a", "2"), max_overtakes=1) == [2, 0, 1, 3, 4]


def test_a_variant_for_each_generation_does_not_slow_the_prediction() -> None:
    waiting = [Waiting(seq, "x", "a", str(seq)) for seq in range(20_000)]

    assert order(waiting, holding=Weights("a")) == [*range(20_000)]
