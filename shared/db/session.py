"""One transaction per request or task, committed at the edge."""

from collections.abc import Iterator
from contextlib import contextmanager

import orjson
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from shared.errors import DatabaseUnavailable

#: a frozen process inside a transaction holds its locks no longer than this
IDLE_IN_TRANSACTION_MS = 10_000
STATEMENT_MS = 30_000


class Database:
    """The pool of one process. Thread-safe; opened lazily, so it may be built while PostgreSQL is down."""

    def __init__(self, url: str, *, pool: int = 10, name: str = "modelyard") -> None:
        self.url = url
        options = f"-c statement_timeout={STATEMENT_MS} -c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_MS}"
        self.engine: Engine = create_engine(
            url,
            pool_size=pool,
            max_overflow=0,
            pool_timeout=3,
            hide_parameters=True,  # prompts must not stand in an error's message
            json_deserializer=orjson.loads,  # a number beyond 64 bits comes back as the float that it was
            connect_args={"options": options, "application_name": name, "connect_timeout": 3},
        )

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session that commits when the block ends and rolls back when it raises.

        Raises:
            DatabaseUnavailable: PostgreSQL cannot be reached, or the connection broke (a commit may have happened).
        """
        session = Session(self.engine, expire_on_commit=False)
        try:
            yield session
            session.commit()
        except (OperationalError, InterfaceError, PoolTimeout) as error:
            session.invalidate()
            raise DatabaseUnavailable from error
        except DBAPIError as error:
            session.rollback()
            if error.connection_invalidated:
                raise DatabaseUnavailable from error
            raise
        except BaseException:
            session.rollback()
            raise
        finally:
            session.close()

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()
