"""A data directory may have any name: it has a database of its own, which nothing in the name leads elsewhere."""

from pathlib import Path

import httpx
import pytest

from server.core.settings.settings import Settings
from server.storage.db.api_keys import KeyRing, are_there_any
from server.storage.db.connection import database_of, opened
from tests.support.server_process import ServerProcess

NAMES = ("a?x", "a?y", "a%41", "aA", "a#b", "a#c", "a\nb", "a b", "a&b=c;d", "a:b@c", "file:a", "\u725b", "~", "a'\"")


def test_each_folder_has_its_own_database(tmp_path: Path) -> None:
    for name in NAMES:
        settings = Settings(data_dir=tmp_path / name)
        settings.data_dir.mkdir()
        assert not are_there_any(database_of(settings))
        with opened(database_of(settings)) as engine:
            KeyRing(engine).add(name.encode("ascii", "replace").hex())
        assert are_there_any(database_of(settings))

    for name in NAMES:
        with opened(database_of(Settings(data_dir=tmp_path / name))) as engine:
            assert [key.name for key in KeyRing(engine).all()] == [name.encode("ascii", "replace").hex()]
        assert (tmp_path / name / "paddock.db").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES)


@pytest.mark.parametrize("name", ["a?x#%41&b", "a b\n\u725b"])
def test_a_server_works_in_such_a_folder(tmp_path: Path, name: str) -> None:
    server = ServerProcess(tmp_path / name)
    server.start()
    try:
        row = server.wait_for(server.enqueue(), "succeeded")
        assert httpx.get(row["result_url"]).content[4:8] == b"ftyp"
        assert (tmp_path / name / "paddock.db").is_file()
    finally:
        server.close()
