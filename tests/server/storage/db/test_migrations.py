"""Every database that a version left opens in this one, or is refused and left as it was; a copy is kept before."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Engine, MetaData, Table, create_engine, delete, func, insert, null, select, text

from pipelines.core.request import VideoParams
from server.core.settings.settings import Settings
from server.storage.db.api_keys import KeyRing
from server.storage.db.connection import DatabaseUnusableError, database_of, open_database, unopened
from server.storage.db.migrations import backup as copies
from server.storage.db.migrations import upgrade
from server.storage.db.records import Filters
from server.storage.db.schema import generations, metadata, prompt_words
from server.storage.db.statements.rows import to_row
from tests.contract.store.examples import new

V0_1_0 = Path(__file__).parents[3] / "data" / "v0.1.0"
HEAD = upgrade.revisions()[-1]

MAKE_A_TABLE = """
import os, signal
from alembic import op
import sqlalchemy as sa
revision, down_revision = "9000", "{head}"

def upgrade():
    op.create_table("half_done", sa.Column("id", sa.Integer))
    op.drop_table("attempts")
    {then}
"""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The database that v0.1.0 left when it was killed, most of it still in the log beside it."""
    for file in V0_1_0.glob("paddock.db*"):
        shutil.copy(file, tmp_path)
    return tmp_path / "paddock.db"


def schema(database: Path) -> set[str]:
    """The statements that make a database's tables and indexes, but for Alembic's own."""
    with closing(sqlite3.connect(database)) as connection:
        found = connection.execute("SELECT sql FROM sqlite_master WHERE sql NOT NULL AND tbl_name != 'alembic_version'")
        return {" ".join(sql.split()) for (sql,) in found}


def content(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as connection:
        return list(connection.iterdump())


def at_revision(url: str, revision: str) -> Engine:
    """An empty database as that revision left it."""
    engine = unopened(url)
    with engine.begin() as tx:
        command.upgrade(upgrade.alembic_config(tx), revision)
    return engine


def known(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    """A row, without columns that a table does not have yet."""
    return {name: value for name, value in row.items() if name in table.columns}


def is_described(name: str | None, kind: str, _parents: object) -> bool:
    """Whether the store's description can be compared: it is not of FTS5's tables."""
    return kind != "table" or name is None or not name.startswith("prompt_words")


def differences(tx: Connection) -> list[Any]:
    """What tells a SQLite database from the store's description."""
    context = MigrationContext.configure(tx, opts={"compare_type": True, "include_name": is_described})
    described = MetaData()
    for table in metadata.sorted_tables:
        if is_described(table.name, "table", None):
            table.to_metadata(described)
    return list(compare_metadata(context, described))


def in_data_dir(folder: Path) -> str:
    return str(database_of(Settings(data_dir=folder)))


def open_and_close(database: Path) -> None:
    open_database(in_data_dir(database.parent)).dispose()


def scripts_that(then: str, folder: Path) -> Path:
    """This version's revisions, and one more that does `then` when it is half done."""
    shutil.copytree(upgrade.SCRIPTS, folder)
    (folder / "versions" / "9000_half.py").write_text(MAKE_A_TABLE.format(head=HEAD, then=then))
    return folder


def test_the_first_revision_is_the_schema_of_v0_1_0(old: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh.db"
    engine = create_engine(f"sqlite:///{fresh}")
    with engine.begin() as tx:
        command.upgrade(upgrade.alembic_config(tx), upgrade.FIRST)
    engine.dispose()

    assert schema(fresh) == schema(old)


def test_an_empty_database_gets_the_schema_that_the_store_describes(tmp_path: Path) -> None:
    engine = open_database(in_data_dir(tmp_path))
    with engine.begin() as tx:
        assert differences(tx) == []
    engine.dispose()
    # what the comparison does not see: numbers that are never given twice
    assert any("seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT" in sql for sql in schema(tmp_path / "paddock.db"))
    assert not copies.copies(tmp_path / "paddock.db")


def test_the_records_of_v0_1_0_are_upgraded_and_kept_as_they_were(old: Path, tmp_path: Path) -> None:
    before = schema(old), content(old)
    engine = open_database(in_data_dir(tmp_path))
    with engine.begin() as tx:
        assert differences(tx) == []
        rows = tx.exec_driver_sql("SELECT status FROM generations ORDER BY seq").scalars().all()
    engine.dispose()

    assert rows == ["succeeded", "failed", "processing", "queued", "cancelled"]
    (copy,) = copies.copies(old)
    assert copy.name == f"paddock.db.before-{HEAD}"
    assert (schema(copy), content(copy)) == before


def test_a_version_between_the_releases_had_the_index_already(old: Path) -> None:
    with closing(sqlite3.connect(old)) as connection:
        connection.execute("CREATE INDEX generations_by_model ON generations (status, model, seq)")

    open_and_close(old)

    assert any("queue_by_model" in sql for sql in schema(old))


def test_a_database_of_this_version_is_left_alone_and_opens_without_alembic(old: Path) -> None:
    open_and_close(old)
    before = content(old)
    program = (
        "import sys, server.storage.db.connection as connection; connection.open_database(sys.argv[1]).dispose(); "
        "assert not {'alembic', 'mako'} & set(sys.modules)"
    )

    subprocess.run([sys.executable, "-P", "-c", program, in_data_dir(old.parent)], check=True)

    assert content(old) == before
    assert len(copies.copies(old)) == 1


OPEN_AND_LOG = """
import sys
from server.core.logging import LogFormat, configure
from server.storage.db.connection import open_database
configure("debug", LogFormat.TEXT)
for url in sys.argv[1:]:
    open_database(url).dispose()
"""


def opening_logs(*urls: str) -> str:
    """What opening databases logs, in a process in which Alembic has not been configured yet."""
    command = [sys.executable, "-P", "-c", OPEN_AND_LOG, *urls]
    return subprocess.run(command, stderr=subprocess.PIPE, check=True, text=True).stderr


def test_making_and_upgrading_a_database_logs_no_lines_of_alembic(old: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()

    logged = opening_logs(in_data_dir(tmp_path / "new"), in_data_dir(old.parent))

    assert "upgrading the database schema from 0001" in logged
    assert "alembic" not in logged.lower()


def test_making_and_upgrading_a_postgresql_database_logs_no_lines_of_alembic(postgres_url: str) -> None:
    engine = unopened(postgres_url)
    with engine.begin() as tx:
        command.upgrade(upgrade.alembic_config(tx), upgrade.FIRST)
    engine.dispose()

    logged = opening_logs(postgres_url)

    assert "upgrading the database schema from 0001" in logged
    assert "alembic" not in logged.lower()


def test_a_database_of_a_newer_version_is_refused_and_left_as_it_was(old: Path) -> None:
    open_and_close(old)
    with closing(sqlite3.connect(old, isolation_level=None)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    before = content(old)

    with pytest.raises(DatabaseUnusableError, match="newer version of Paddock: its schema is 9999"):
        open_and_close(old)

    assert content(old) == before


def test_a_file_that_is_no_database_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "paddock.db").write_bytes(b"not a database, but long enough to be looked at as one" * 100)

    with pytest.raises(DatabaseUnusableError, match=r"paddock\.db cannot be used: file is not a database"):
        open_and_close(tmp_path / "paddock.db")


def test_a_migration_that_fails_midway_has_changed_nothing(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(old)
    with monkeypatch.context() as patch:
        patch.setattr(upgrade, "SCRIPTS", scripts_that("op.drop_table('no such table')", tmp_path / "scripts"))
        with pytest.raises(DatabaseUnusableError, match="no such table"):
            open_and_close(old)

    assert content(old) == before
    assert not copies.copies(old)
    open_and_close(old)
    assert any("queue_by_model" in sql for sql in schema(old))


def test_a_migration_that_is_killed_midway_has_changed_nothing(old: Path, tmp_path: Path) -> None:
    before = content(old)
    scripts = scripts_that("os.kill(os.getpid(), signal.SIGKILL)", tmp_path / "scripts")
    program = (
        "import sys, pathlib, server.storage.db.connection; from server.storage.db.migrations import upgrade; "
        "upgrade.SCRIPTS = pathlib.Path(sys.argv[2]); server.storage.db.connection.open_database(sys.argv[1])"
    )
    url = in_data_dir(old.parent)

    killed = subprocess.run([sys.executable, "-P", "-c", program, url, scripts], env=os.environ, check=False)

    assert killed.returncode == -signal.SIGKILL
    (copy,) = copies.copies(old)
    assert content(old) == content(copy) == before
    open_and_close(old)
    assert any("queue_by_model" in sql for sql in schema(old))


def test_no_copy_is_written_over_and_the_newest_three_stay(old: Path) -> None:
    made = []
    for n in range(5):
        with closing(sqlite3.connect(old, isolation_level=None)) as connection:
            connection.execute(f"PRAGMA user_version = {n}")
        made.append(copies.keep_copy(old, "0002"))
        # a disk may note times no finer than this
        os.utime(made[-1], (n, n))

    assert copies.copies(old) == made[:1:-1]
    for n, copy in enumerate(made[2:], 2):
        with closing(sqlite3.connect(copy)) as connection:
            assert connection.execute("PRAGMA user_version").fetchone() == (n,)
    assert not list(old.parent.glob("*.part*"))


def test_a_copy_that_cannot_be_made_stops_the_upgrade(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(old)

    def full(_path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipelines.core.files.sync", full)
    with pytest.raises(DatabaseUnusableError, match="No space left on device"):
        open_and_close(old)

    assert content(old) == before
    assert not copies.copies(old)
    assert not list(old.parent.glob("*.part*"))


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_nul_in_old_records_is_replaced(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = f"sqlite:///{tmp_path / 'paddock.db'}" if kind == "sqlite" else str(request.getfixturevalue("postgres_url"))
    engine = at_revision(url, "0011")
    odd = {"prompt": "an\0ox \0\0", "written": "\\u0000", "style": ["\0"]}
    now = {"prompt": "an\ufffdox \ufffd\ufffd", "written": "\\u0000", "style": ["\ufffd"]}
    with engine.begin() as tx:
        old = Table("generations", MetaData(), autoload_with=tx)
        for parameters, params in ((odd, odd), (odd, None), ({"prompt": "even"}, {"prompt": "even"})):
            row = to_row(replace(new(), parameters=parameters)) | {"params": null() if params is None else params}
            tx.execute(insert(old).values(known(old, row)))
    engine.dispose()

    engine = open_database(url)
    with engine.begin() as tx:
        rows = tx.execute(select(generations.c.parameters, generations.c.params).order_by(generations.c.seq)).all()
        found = tx.scalar(select(func.count()).where(Filters(search="ox").clause()))
    engine.dispose()
    assert [tuple(row) for row in rows] == [(now, now), (now, None), ({"prompt": "even"}, {"prompt": "even"})]
    assert found == 2


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_keys_of_earlier_versions_are_valid_and_no_admin_keys(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path / 'paddock.db'}" if kind == "sqlite" else str(request.getfixturevalue("postgres_url"))
    engine = at_revision(url, "0012")
    with engine.begin() as tx:
        tx.execute(text("INSERT INTO keys (name, digest, made_at) VALUES ('laptop', 'abc', 1)"))
    engine.dispose()

    engine = open_database(url)
    (key,) = KeyRing(engine).all()
    engine.dispose()

    assert (key.name, key.is_valid, key.is_admin) == ("laptop", True, False)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_old_records_have_sizes_and_no_marks(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = f"sqlite:///{tmp_path / 'paddock.db'}" if kind == "sqlite" else str(request.getfixturevalue("postgres_url"))
    engine = at_revision(url, "0024")
    odd = VideoParams('say "width": 7, "height": 8 \ud800', width=128, height=64)
    with engine.begin() as tx:
        old = Table("generations", MetaData(), autoload_with=tx)
        rows = [to_row(new(params=params)) for params in (odd, None, VideoParams("an ox"))]
        tx.execute(insert(old), [known(old, {**row, "prompt": None}) for row in rows])
        tx.execute(insert(old).values(known(old, to_row(new())) | {"params": null()}))
    engine.dispose()

    engine = open_database(url)
    with engine.begin() as tx:
        found = tx.execute(select(generations.c.size, generations.c.favourite).order_by(generations.c.seq)).all()
        sizes = [tx.scalar(select(func.count()).where(Filters(size=size).clause())) for size in ("128x64", "832x480")]
    engine.dispose()
    assert [tuple(row) for row in found] == [("128x64", False), (None, False), ("832x480", False), (None, False)]
    assert sizes == [1, 1]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_prompts_of_old_records_are_found(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = f"sqlite:///{tmp_path / 'paddock.db'}" if kind == "sqlite" else str(request.getfixturevalue("postgres_url"))
    # more than are read at once, the last time as many
    prompts: list[Any] = ["An ox", "A lake", None, 7, "湖边的牛", "\ud800ox", "?", {"ox": "ox"}] * 125
    engine = at_revision(url, "0012")
    with engine.begin() as tx:
        rows = [new(parameters={"prompt": prompt}, tenant="ab"[at % 2]) for at, prompt in enumerate(prompts)]
        rows[2] = replace(rows[2], parameters={})
        old = Table("generations", MetaData(), autoload_with=tx)
        tx.execute(insert(old), [known(old, to_row(row)) for row in rows])
        # numbers are not given twice: there are gaps
        tx.execute(delete(generations).where(generations.c.seq.between(9, 24)))
    engine.dispose()

    engine = open_database(url)
    with engine.begin() as tx:

        def found(search: str, tenant: str) -> int:
            return tx.scalar(select(func.count()).where(Filters(search=search, tenant=tenant).clause())) or 0

        assert [found("ox", tenant) for tenant in "ab"] == [123, 123]
        assert [found("lake", tenant) for tenant in "ab"] == [0, 123]
        assert [found("边的", tenant) for tenant in "ab"] == [123, 0]
        assert tx.scalar(select(func.count()).select_from(prompt_words)) == 4 * 123
    engine.dispose()
