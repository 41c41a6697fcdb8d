"""What lines of every kind share: how much of them is in memory, and what an engine's reply is taken for."""

import asyncio

from shared.engine_client import Reply
from workers.operations.asking import Answered
from workers.operations.pumping import _Gate
from workers.operations.storable import storable, told


class TestGate:
    def test_lets_in_what_fits_in_turn_and_what_is_too_large_alone(self) -> None:
        inside: list[str] = []

        async def hold(gate: _Gate, name: str, amount: int, leave: asyncio.Event) -> None:
            async with gate.hold(amount):
                inside.append(name)
                await leave.wait()
                inside.remove(name)

        async def scene() -> None:
            gate = _Gate(10)
            doors = {name: asyncio.Event() for name in ("small", "half", "huge", "late")}
            async with asyncio.TaskGroup() as group:
                for name, amount in (("small", 3), ("half", 6), ("huge", 99), ("late", 1)):
                    group.create_task(hold(gate, name, amount, doors[name]))
                await _settled()
                assert inside == ["small", "half"]
                doors["small"].set()
                await _settled()
                assert inside == ["half"], "nobody passes the one that waits"
                doors["half"].set()
                await _settled()
                assert inside == ["huge"]
                doors["huge"].set()
                await _settled()
                assert inside == ["late"]
                doors["late"].set()
            assert inside == []

        asyncio.run(scene())

    def test_is_left_by_whoever_is_cancelled(self) -> None:
        async def scene() -> None:
            gate = _Gate(1)
            first = asyncio.create_task(_forever(gate))
            second = asyncio.create_task(_forever(gate))
            await _settled()
            second.cancel()
            first.cancel()
            await asyncio.gather(first, second, return_exceptions=True)
            async with asyncio.timeout(1), gate.hold(1):
                pass

        asyncio.run(scene())


class TestAnswered:
    def test_vllms_errors_are_given_a_code(self) -> None:
        reply = Reply(400, b'{"error": {"message": "This model\'s maximum context length is 64", "code": 400}}')
        assert Answered.of(reply).error.code == "context_length_exceeded"
        assert Answered.of(Reply(400, b'{"error": {"message": "no", "code": 400}}')).error.code == "engine_error"

    def test_what_is_no_json_is_a_broken_answer(self) -> None:
        assert Answered.of(Reply(200, b"Internal Server Error")).status == 502
        broken = Answered.of(Reply(500, b"Internal Server Error"))
        assert (broken.status, broken.error.retryable) == (500, True)
        assert "500" in broken.error.title
        assert Answered.of(Reply(200, b"[1]")).status == 502
        assert Answered.of(Reply(404, b'{"error": "gone"}')).error.code == "engine_error"


class TestStorable:
    def test_nul_and_half_of_a_pair_are_replaced_at_any_depth(self) -> None:
        body = rb'{"a\u0000": [{"text": "x\ud83dy \ud83d\ude00"}, 1, null, "\\u0000"]}'
        assert told(body) == {"a\ufffd": [{"text": "x\ufffdy \U0001f600"}, 1, None, "\\u0000"]}
        assert storable({"plain": ["ü", 1.5, True]}) == {"plain": ["ü", 1.5, True]}


async def _settled() -> None:
    """Everybody has gone as far as they can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def _forever(gate: _Gate) -> None:
    async with gate.hold(1):
        await asyncio.Event().wait()
