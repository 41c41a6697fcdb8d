"""Which replica a call goes to."""

from collections import Counter
from typing import Any

from gateway.calls.replicas import Seat, pick
from services.placement.types import Replica
from shared.engine_client import EngineClient
from shared.ids import new_id


def seat(*, calls: int = 0, others: int = 0, **changes: Any) -> Seat:
    fields: dict[str, Any] = {
        "id": new_id(),
        "worker_id": new_id(),
        "host": "here",
        "gpu_class": "cpu",
        "digest": "ab" * 32,
        "kind": "transformers",
        "address": "unix:/nowhere",
        "devices": 1,
        "modes": ("generate",),
        "max_in_flight": 10,
    }
    return Seat(Replica(**(fields | changes)), EngineClient("/nowhere"), calls=calls, others=others)


class TestPick:
    def test_the_emptier_of_two(self) -> None:
        full, empty = seat(calls=3, others=3), seat(calls=1)
        assert {pick([full, empty], affinity=None) for _ in range(20)} == {empty}

    def test_load_is_a_share_of_what_each_admits(self) -> None:
        small, large = seat(calls=2, max_in_flight=4), seat(calls=20, max_in_flight=100)
        assert pick([small, large], affinity=None) is large

    def test_nobody_who_broke_off_a_moment_ago(self) -> None:
        broken, sound = seat(), seat(calls=9)
        broken.failed()
        assert {pick([broken, sound], affinity=None) for _ in range(20)} == {sound}
        assert pick([broken], affinity=None) is None

    def test_affinity_stays_with_one_replica_until_it_is_crowded(self) -> None:
        seats = [seat() for _ in range(4)]
        near = pick(seats, affinity="conversation")
        assert near is not None
        assert {pick(seats, affinity="conversation") for _ in range(20)} == {near}
        near.calls = 9
        assert pick(seats, affinity="conversation") is not near

    def test_affinities_spread_and_a_replica_that_goes_moves_its_own_alone(self) -> None:
        seats = [seat() for _ in range(4)]
        before = {str(key): pick(seats, affinity=str(key)) for key in range(200)}
        assert min(Counter(before.values()).values()) > 20
        left = seats[1:]
        assert all(pick(left, affinity=key) is one for key, one in before.items() if one is not seats[0])
