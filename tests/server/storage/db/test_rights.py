"""Who may read a SQLite database: it holds the keys that sign links."""

from pathlib import Path
from stat import S_IMODE

from server.storage.db.connection import opened
from server.storage.db.migrations.backup import keep_copy


def rights(path: Path) -> int:
    return S_IMODE(path.stat().st_mode)


def test_other_users_of_the_machine_cannot_read_the_records_nor_their_copies(tmp_path: Path) -> None:
    database = tmp_path / "paddock.db"
    with opened(f"sqlite:///{database}") as engine, engine.begin():
        assert all(rights(path) & 0o007 == 0 for path in tmp_path.glob("paddock.db*"))
    # one of the version before, which its group may read
    database.chmod(0o644)
    with opened(f"sqlite:///{database}"):
        assert rights(database) == 0o640

    assert rights(keep_copy(database, "9999")) == 0o640
