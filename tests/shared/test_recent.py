"""What a process may believe for a moment."""

from collections.abc import Callable
from itertools import count

from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from shared import recent
from shared.recent import Recent
from tests.support import wait_until


def session() -> Session:
    return Session(create_engine("postgresql+psycopg://127.0.0.1:1/never-connected"))


def counter() -> Callable[[], int]:
    numbers = count(1)
    return lambda: next(numbers)


class TestRecent:
    def test_a_value_is_read_once_for_each_key(self) -> None:
        kept, read, here = Recent[int](60), counter(), session()
        assert [kept.get(here, key, read) for key in "aabba"] == [1, 1, 2, 2, 1]

    def test_it_is_read_again_when_its_time_is_over(self) -> None:
        kept, read, here = Recent[int](0.05), counter(), session()
        assert kept.get(here, "a", read) == 1
        wait_until(lambda: kept.get(here, "a", read) == 2)

    def test_databases_are_kept_apart(self) -> None:
        kept, read = Recent[int](60), counter()
        one, other = session(), session()
        assert [kept.get(one, "a", read), kept.get(other, "a", read), kept.get(one, "a", read)] == [1, 2, 1]

    def test_it_does_not_grow_for_ever(self) -> None:
        kept, read, here = Recent[int](60), counter(), session()
        for key in range(recent.MOST + 1):
            kept.get(here, key, read)
        assert kept.get(here, 0, read) == recent.MOST + 2
