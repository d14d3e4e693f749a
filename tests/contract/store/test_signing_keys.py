"""The keys that sign links: the same on all servers, whoever starts first, and those of before stay good."""

from concurrent.futures import ThreadPoolExecutor

from itsdangerous import URLSafeTimedSerializer
from sqlalchemy import create_engine, select

from server.storage.db.connection import opened
from server.storage.db.schema import signing_keys
from server.storage.db.statements.signing_keys import keys_that_sign
from server.storage.files.stores import link_signer


def test_the_first_server_makes_a_key_and_all_others_have_it(url: str) -> None:
    with opened(url) as engine:
        (made,) = keys_that_sign(engine)
        assert len(made) >= 43
        assert keys_that_sign(engine) == [made]
    with opened(url) as engine:
        assert keys_that_sign(engine) == [made]


def test_the_key_of_a_data_directory_is_taken_over_and_its_links_stay_good(url: str) -> None:
    link = URLSafeTimedSerializer("of before", salt="video").dumps("g.1")

    with opened(url) as engine:
        keys = keys_that_sign(engine, "of before")
        assert keys == keys_that_sign(engine, "of before") == keys_that_sign(engine) == ["of before"]

    assert link_signer(keys, 60).verify(link) == "g.1"


def test_each_of_several_servers_keeps_its_links_and_all_sign_with_one_key(url: str) -> None:
    links = [URLSafeTimedSerializer(key, salt="video").dumps("g.1") for key in ("a", "b", "c")]
    with opened(url) as engine:
        seen = [keys_that_sign(engine, key) for key in ("b", "a", "c")]

    assert [keys[0] for keys in seen] == ["b", "b", "b"]
    assert sorted(seen[-1]) == ["a", "b", "c"]
    signer = link_signer(seen[-1], 60)
    assert {signer.verify(link) for link in links} == {"g.1"}
    # those that started first know what those that started later sign
    assert link_signer(seen[0], 60).verify(signer.sign("g.2")) == "g.2"


def test_servers_that_start_at_once_agree(url: str) -> None:
    with opened(url):
        pass

    def start(_: int) -> str:
        with opened(url) as engine:
            return keys_that_sign(engine)[0]

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(start, range(8)))) == 1
    engine = create_engine(url)
    with engine.connect() as connection:
        assert len(connection.scalars(select(signing_keys.c.value)).all()) == 1
    engine.dispose()
