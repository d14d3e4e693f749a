"""The tables of the records, as `server.storage.db.migrations` makes them: generations, their tags, attempts at them,
the words they are found by, API keys, the turns of tenants, the numbers of their events, idempotent requests, the keys
that sign links, and what is to be sent to webhooks.
"""

from collections.abc import Sequence

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    and_,
    false,
    literal_column,
    or_,
    true,
)
from sqlalchemy.dialects.postgresql import TSQUERY, TSVECTOR
from sqlalchemy.types import TypeEngine

from pipelines.core.request import INPUTS


class _Text(TypeDecorator[str]):
    """Any text that a client sends. PostgreSQL's text cannot hold NUL: U+FFFD, the replacement character, is kept."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return value.replace("\0", "\ufffd") if value is not None and dialect.name == "postgresql" else value


class Words(TypeDecorator[Sequence[str]]):
    """Words of `server.storage.db.words`, which hold nothing that either database takes for more than a letter."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[str]:
        return TSVECTOR() if dialect.name == "postgresql" else Text()

    def process_bind_param(self, value: Sequence[str] | None, dialect: Dialect) -> str:
        mark = "'" if dialect.name == "postgresql" else ""
        return " ".join(f"{mark}{word}{mark}" for word in value or ())


class Beginnings(TypeDecorator[Sequence[str]]):
    """What to find: rows in which each of these begins a word."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[str]:
        return TSQUERY() if dialect.name == "postgresql" else Text()

    def process_bind_param(self, value: Sequence[str] | None, dialect: Dialect) -> str:
        if dialect.name == "postgresql":
            return " & ".join(f"'{term}':*" for term in value or ())
        return " AND ".join(f'"{term}"*' for term in value or ())


metadata = MetaData()

generations = Table(
    "generations",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", _Text(36), nullable=False, unique=True),
    Column("tenant", _Text, nullable=False),
    Column("origin", _Text, nullable=False),
    Column("model", _Text, nullable=False),
    Column("variant", _Text(16), nullable=False, server_default=""),
    Column("media_type", _Text, nullable=False),
    Column("parameters", JSON, nullable=False),
    Column("params", JSON),
    Column("image", _Text(64)),
    Column("target_namespace", _Text),
    Column("target_repo", _Text),
    Column("target_directory", _Text),
    Column("status", _Text, nullable=False),
    Column("error_message", _Text),
    Column("artifact", _Text),
    Column("progress", Float, nullable=False),
    Column("fingerprint", JSON),
    Column("host", _Text),
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
    Column("deferred_behind", Integer),
    Column("warnings", JSON),
    Column("event_number", Integer),
    Column("awaited_input", _Text),
    Column("asked_model", _Text),
    Column("last_image", _Text(64)),
    Column("video", _Text(64)),
    Column("extends", _Text(64)),
    Column("audio", _Text(64)),
    Column("has_audio", Boolean, nullable=False, server_default=false()),
    Column("has_stills", Boolean),
    # null is that of SQL, not of JSON
    Column("enhancement", JSON(none_as_null=True)),
    Column("webhook", JSON(none_as_null=True)),
    # of the requested video, as "832x480"; null while its parameters are unknown or if they are invalid
    Column("size", _Text(16)),
    Column("favourite", Boolean, nullable=False, server_default=false()),
    Index("generations_by_status", "status", "seq"),
    Index("generations_by_tenant_and_status", "tenant", "status", "seq"),
    # the favourites, which do not go by their age, are passed over without their rows being read
    Index("generations_by_completion", "completed_at", "favourite"),
    # what the history is filtered by: any combination is answered in its order by this index alone
    Index(
        "generations_in_library",
        *("tenant", "seq", "status", "favourite", "size", "model", "asked_model", "media_type", "enqueued_at"),
    ),
    sqlite_autoincrement=True,
)

# They go with their generation. `tenant` is its own: a tag is looked for among the tenant's.
tags = Table(
    "tags",
    metadata,
    Column("seq", Integer, ForeignKey("generations.seq", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("tag", _Text, primary_key=True),
    Column("tenant", _Text, nullable=False),
    Index("tags_by_name", "tenant", "tag", "seq"),
)

# A table of its own: each change of a generation would write its words again, in PostgreSQL into the index, too. In
# SQLite it is an FTS5 table, whose key can only be named rowid: it is the generation's seq.
prompt_words = Table(
    "prompt_words",
    metadata,
    Column("rowid", Integer, primary_key=True, autoincrement=False),
    Column("words", Words, nullable=False),
    Index("prompt_words_by_word", "words", postgresql_using="gin"),
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
    # its progress, for other servers while it runs; null is that of SQL, not of JSON
    Column("live", JSON(none_as_null=True)),
)

api_keys = Table(
    "keys",
    metadata,
    Column("name", _Text, primary_key=True),
    Column("digest", _Text(64), nullable=False, unique=True),
    Column("made_at", Float, nullable=False),
    Column("revoked_at", Float),
    Column("is_admin", Boolean, nullable=False, server_default=false()),
    Column("webhook_url", _Text),
)

turns = Table(
    "turns",
    metadata,
    Column("tenant", _Text, primary_key=True),
    Column("number", Integer, nullable=False),
    Column("passed", Integer, nullable=False),
)

event_counters = Table(
    "event_counters",
    metadata,
    Column("tenant", _Text, primary_key=True),
    Column("newest", Integer, nullable=False),
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

signing_keys = Table(
    "signing_keys",
    metadata,
    Column("name", _Text, primary_key=True),
    Column("value", _Text, nullable=False),
)

# `snapshot` is the generation's row as of the event, until the delivery has ended; `owner` holds it until `due_at`
webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("id", _Text(40), primary_key=True),
    Column("tenant", _Text, nullable=False),
    Column("type", _Text(32), nullable=False),
    Column("snapshot", JSON(none_as_null=True)),
    Column("created_at", Float, nullable=False),
    Column("due_at", Float, nullable=False),
    Column("owner", _Text),
    Column("failures", Integer, nullable=False),
    Column("ended_at", Float),
    Column("error", _Text),
)
IS_UNDELIVERED = webhook_deliveries.c.ended_at.is_(None)
_due = webhook_deliveries.c.due_at
Index("webhook_deliveries_due", _due, sqlite_where=IS_UNDELIVERED, postgresql_where=IS_UNDELIVERED)
Index("webhook_deliveries_by_end", webhook_deliveries.c.ended_at)

_HAS_EVENT = generations.c.event_number.is_not(None)
Index(
    "generations_by_event",
    *(generations.c.tenant, generations.c.event_number),
    sqlite_where=_HAS_EVENT,
    postgresql_where=_HAS_EVENT,
)
# each new stream asks for the first of the recent ones
Index(
    "generations_by_recent_event",
    *(generations.c.tenant, generations.c.completed_at, generations.c.event_number),
    sqlite_where=_HAS_EVENT,
    postgresql_where=_HAS_EVENT,
)

_HAS_IMAGE = generations.c.image.is_not(None)
Index(
    "generations_by_image",
    *(generations.c.image, generations.c.tenant),
    sqlite_where=_HAS_IMAGE,
    postgresql_where=_HAS_IMAGE,
)

_HAS_LAST_IMAGE = generations.c.last_image.is_not(None)
Index(
    "generations_by_last_image",
    *(generations.c.last_image, generations.c.tenant),
    sqlite_where=_HAS_LAST_IMAGE,
    postgresql_where=_HAS_LAST_IMAGE,
)

_HAS_VIDEO, _HAS_EXTENDED = (generations.c[name].is_not(None) for name in ("video", "extends"))
Index(
    "generations_by_video",
    *(generations.c.video, generations.c.tenant),
    sqlite_where=_HAS_VIDEO,
    postgresql_where=_HAS_VIDEO,
)
Index(
    "generations_by_extended",
    *(generations.c.extends, generations.c.tenant),
    sqlite_where=_HAS_EXTENDED,
    postgresql_where=_HAS_EXTENDED,
)

_HAS_AUDIO = generations.c.audio.is_not(None)
Index(
    "generations_by_audio",
    *(generations.c.audio, generations.c.tenant),
    sqlite_where=_HAS_AUDIO,
    postgresql_where=_HAS_AUDIO,
)

HAS_INPUTS = or_(*(generations.c[name].is_not(None) for name in INPUTS))
HAS_FILES = or_(*(generations.c[name].is_not(None) for name in ("artifact", *INPUTS)))
# the kept videos and inputs, oldest first, the favourites last
Index(
    "generations_by_files",
    *(generations.c.favourite, generations.c.completed_at),
    sqlite_where=HAS_FILES,
    postgresql_where=HAS_FILES,
)

IS_FAVOURITE = generations.c.favourite == true()
Index(
    "generations_by_favourite",
    *(generations.c.tenant, generations.c.seq),
    sqlite_where=IS_FAVOURITE,
    postgresql_where=IS_FAVOURITE,
)

LACKS_STILLS = and_(generations.c.artifact.is_not(None), generations.c.has_stills.is_(None))
"""It has a video, and nobody has drawn its stills yet."""
Index("generations_without_stills", generations.c.seq, sqlite_where=LACKS_STILLS, postgresql_where=LACKS_STILLS)

# A partial index is used where the query is seen to imply its condition: this is written out, not bound. The condition
# is not the status itself: PostgreSQL would then not look rows up by it, and SQLite would prefer an index by status
# alone.
_IS_ACTIVE = generations.c.completed_at.is_(None)
_deferred_behind, _awaited_input = generations.c.deferred_behind, generations.c.awaited_input
_IN_TURN = and_(_IS_ACTIVE, _deferred_behind.is_(None), _awaited_input.is_(None))
_DEFERRED = and_(_IS_ACTIVE, _deferred_behind.is_not(None))
_AWAITING = and_(_IS_ACTIVE, _awaited_input.is_not(None))
_IS_QUEUED = and_(generations.c.status == "queued", _IS_ACTIVE)
IS_CLAIMABLE = and_(_IS_QUEUED, _awaited_input.is_(None))
IS_IN_TURN = and_(IS_CLAIMABLE, _deferred_behind.is_(None))
"""It waits, and not at the end of the queue."""
IS_DEFERRED = and_(IS_CLAIMABLE, _deferred_behind.is_not(None))
"""It waits at the end of the queue."""
IS_AWAITING = and_(_IS_QUEUED, _awaited_input.is_not(None))
"""It waits, and its input has to be fetched or its prompt rewritten before it may be claimed."""
WAS_CLAIMED = generations.c.attempt > literal_column("0")
# what each tenant has waiting, of all models, of each, and of each variant; what waits at the end, or for its input;
# what was taken
_rows = generations.c
Index("queue_by_tenant", _rows.status, _rows.tenant, _rows.seq, sqlite_where=_IN_TURN, postgresql_where=_IN_TURN)
Index(
    "queue_by_model",
    *(_rows.status, _rows.model, _rows.tenant, _rows.seq),
    sqlite_where=_IN_TURN,
    postgresql_where=_IN_TURN,
)
Index(
    "queue_by_variant",
    *(_rows.status, _rows.variant, _rows.model, _rows.tenant, _rows.seq),
    sqlite_where=_IN_TURN,
    postgresql_where=_IN_TURN,
)
Index("queue_deferred", _rows.deferred_behind, _rows.seq, sqlite_where=_DEFERRED, postgresql_where=_DEFERRED)
Index("queue_awaiting", _rows.seq, sqlite_where=_AWAITING, postgresql_where=_AWAITING)
Index("claims_by_tenant", _rows.tenant, _rows.seq, sqlite_where=WAS_CLAIMED, postgresql_where=WAS_CLAIMED)
