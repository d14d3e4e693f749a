"""The durable records: one session on the database, and the statements on it by topic."""

import time

from sqlalchemy import Engine

from server.storage.db.session import Clock, Session
from server.storage.db.sharing.listener import Listener
from server.storage.db.sharing.locks import Locks
from server.storage.db.statements.attempts import Attempts
from server.storage.db.statements.awaited_inputs import AwaitedInputs
from server.storage.db.statements.expiry import Expiry
from server.storage.db.statements.history import History
from server.storage.db.statements.library import LibraryRecords
from server.storage.db.statements.live_progress import LiveProgress
from server.storage.db.statements.stills import StillsRecords
from server.storage.db.statements.submissions import Submissions
from server.storage.webhooks.deliveries import Deliveries


class Store:
    """The records in an open database. Each consumer takes the part it needs.

    At most `max_overtakes` generations go before an older one that needs other weights, and as many before another
    tenant's turn; 0: none. `server` is a name that no other live server has, and that begins the name of every owner
    of its claims. Every method of a part raises RecordsUnavailableError while the database cannot be used.
    """

    def __init__(
        self, engine: Engine, clock: Clock = time.time, *, max_overtakes: int = 0, server: str | None = None
    ) -> None:
        self._session = Session(engine, clock, server)
        self.submissions = Submissions(self._session)
        self.attempts = Attempts(self._session, max_overtakes)
        self.history = History(self._session, max_overtakes)
        self.expiry = Expiry(self._session)
        self.library = LibraryRecords(self._session)
        self.awaited_inputs = AwaitedInputs(self._session)
        self.live_progress = LiveProgress(self._session)
        self.stills = StillsRecords(self._session)
        self.deliveries = Deliveries(self._session)
        self.locks = Locks(self._session)
        self.listener = Listener(self._session)

    @property
    def is_shared(self) -> bool:
        """Whether other servers may work on the same records."""
        return self._session.is_shared

    def close(self) -> None:
        """End the threads; the database stays open."""
        self._session.close()
