"""What tells the second of two equal names."""

from services.batches.seen import Seen


class TestSeen:
    def test_it_tells_what_has_come_before(self) -> None:
        seen = Seen()
        names = [f"line-{number}" for number in range(50_000)]
        assert all(seen.add(name) for name in names)
        assert not any(seen.add(name) for name in names)
        assert seen.add("another")
