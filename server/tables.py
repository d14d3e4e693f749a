"""The tables of the records, as `server.migrations` makes them: of generations, of attempts at them, of API
keys and their turns, and of requests that may come twice.
"""

from sqlalchemy import (
    JSON,
    Column,
    Dialect,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    TypeDecorator,
    literal_column,
)


class _Text(TypeDecorator[str]):
    """Text, whatever a client sends: PostgreSQL's has no NUL in it, so that the sign for a lost character stands in."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return value.replace("\0", "\ufffd") if value is not None and dialect.name == "postgresql" else value


metadata = MetaData()

generations = Table(
    "generations",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", _Text(36), nullable=False, unique=True),
    Column("tenant", _Text, nullable=False),
    Column("origin", _Text, nullable=False),
    Column("model", _Text, nullable=False),
    Column("media_type", _Text, nullable=False),
    Column("parameters", JSON, nullable=False),
    Column("params", JSON),
    Column("target_namespace", _Text),
    Column("target_repo", _Text),
    Column("target_directory", _Text),
    Column("status", _Text, nullable=False),
    Column("error_message", _Text),
    Column("artifact", _Text),
    Column("progress", Float, nullable=False),
    Column("fingerprint", JSON),
    Column("enqueued_at", Float, nullable=False),
    Column("started_at", Float),
    Column("completed_at", Float),
    Column("attempt", Integer, nullable=False),
    Column("owner", _Text),
    Column("lease_until", Float),
    Column("worker_deaths", Integer, nullable=False),
    Column("server_deaths", Integer, nullable=False),
    Column("furthest", Float, nullable=False),
    Column("accepted_by", _Text),
    Index("generations_by_status", "status", "seq"),
    Index("generations_by_tenant", "tenant", "seq"),
    Index("generations_by_completion", "completed_at"),
    sqlite_autoincrement=True,
)

attempts = Table(
    "attempts",
    metadata,
    Column("generation_id", _Text(36), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("owner", _Text, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("outcome", _Text),
)

keys = Table(
    "keys",
    metadata,
    Column("name", _Text, primary_key=True),
    Column("digest", _Text(64), nullable=False, unique=True),
    Column("made_at", Float, nullable=False),
    Column("revoked_at", Float),
)

turns = Table(
    "turns",
    metadata,
    Column("tenant", _Text, primary_key=True),
    Column("number", Integer, nullable=False),
    Column("passed", Integer, nullable=False),
)

requests = Table(
    "requests",
    metadata,
    Column("tenant", _Text, primary_key=True),
    Column("key", _Text, primary_key=True),
    Column("digest", _Text(64), nullable=False),
    Column("generations", JSON, nullable=False),
    Column("made_at", Float, nullable=False),
    Index("requests_by_age", "made_at"),
)

HAS_VIDEO = generations.c.artifact.is_not(None)
# the videos that are kept, oldest first
Index("generations_by_video", generations.c.completed_at, sqlite_where=HAS_VIDEO, postgresql_where=HAS_VIDEO)

# written out, not bound: a database must see that an index of these only will do
IS_QUEUED = generations.c.status == literal_column("'queued'")
WAS_CLAIMED = generations.c.attempt > literal_column("0")
# What each key has waiting, of all models and of each, and what was taken. The status is a column as well since SQLite
# would take an index by the status of all rows for the better one.
_rows = generations.c
Index("queue_by_tenant", _rows.status, _rows.tenant, _rows.seq, sqlite_where=IS_QUEUED, postgresql_where=IS_QUEUED)
Index(
    "queue_by_model",
    *(_rows.status, _rows.model, _rows.tenant, _rows.seq),
    sqlite_where=IS_QUEUED,
    postgresql_where=IS_QUEUED,
)
Index("claims_by_tenant", _rows.tenant, _rows.seq, sqlite_where=WAS_CLAIMED, postgresql_where=WAS_CLAIMED)
