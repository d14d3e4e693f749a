"""Cards by the names that people and drivers give them."""

import pytest

from pipelines.core.errors import UnknownCardError
from pipelines.planning.cards import CARDS, find_card


@pytest.mark.parametrize(
    ("written", "title"),
    [
        ("RTX 3060 12GB", "RTX 3060 12GB"),
        ("3060", "RTX 3060 12GB"),
        ("geforce rtx3060 12 GiB", "RTX 3060 12GB"),
        ("4060ti 16gb", "RTX 4060 Ti 16GB"),
        ("NVIDIA GeForce RTX 4070 SUPER", "RTX 4070 Super 12GB"),
        ("RTX-4090", "RTX 4090 24GB"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada 48GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100 80GB"),
        ("NVIDIA H100 PCIe", "H100 PCIe 80GB"),
        ("H200", "H200 141GB"),
    ],
)
def test_a_card_is_found_by_any_usual_spelling(written: str, title: str) -> None:
    assert find_card(written).title == title


def test_every_card_is_found_by_its_own_title() -> None:
    assert [find_card(card.title) for card in CARDS] == list(CARDS)


def test_the_memory_that_a_driver_reports_tells_variants_apart() -> None:
    # a driver keeps some of the memory
    assert find_card("NVIDIA GeForce RTX 4060 Ti", 15.6).memory == 16
    assert find_card("NVIDIA GeForce RTX 3080", 9.8).memory == 10
    # where there is only one, another size is that of a part of it
    assert find_card("RTX 3060", 8).memory == 12


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("RTX 3080", "RTX 3080 names no single card: choose RTX 3080 10GB or RTX 3080 12GB."),
        ("RTX 3060 16GB", "RTX 3060 16GB names no single card: choose RTX 3060 12GB."),
        ("RTX 3061", "No card named RTX 3061 is known here. Similar names: RTX 3060, "),
        # slower than the card of that name for desktops
        ("NVIDIA GeForce RTX 3060 Laptop GPU", "is known here. Similar names: "),
        ("Radeon", "give its memory with --vram"),
        ("", "give its memory with --vram"),
    ],
)
def test_another_name_is_a_sentence_with_similar_ones(written: str, sentence: str) -> None:
    with pytest.raises(UnknownCardError) as error:
        find_card(written)

    assert sentence in str(error.value)
