import torch

from workers.forge.evaluation.memory import Peak

MIB = 2**20


class TestPeak:
    def test_it_sees_what_was_freed_again(self) -> None:
        with Peak("cpu") as peak:
            held = torch.ones(64 * MIB, dtype=torch.uint8)
            del held
        assert 60 * MIB < peak.bytes < 96 * MIB

    def test_what_was_there_before_does_not_count(self) -> None:
        held = torch.ones(64 * MIB, dtype=torch.uint8)
        with Peak("cpu") as peak:
            held.fill_(2)
        assert peak.bytes < 32 * MIB
