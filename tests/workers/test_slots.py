"""Slots: whoever runs on a device holds its lock, down to the last process."""

import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest

from shared.contracts.jobs import Pool
from shared.ids import new_id
from workers.runtime.slots import SlotName, Slots, slot_names, visible_devices

NAMES = slot_names("cpu", devices=[0], pools=list(Pool))
ME = new_id()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


class TestNames:
    def test_a_cpu_has_a_slot_for_each_pool(self) -> None:
        assert [str(name) for name in NAMES] == ["cpu0.serve", "cpu0.forge"]

    def test_a_gpu_has_one_for_both(self) -> None:
        (name,) = slot_names("h200", devices=[3], pools=list(Pool))
        assert str(name) == "gpu3"
        assert name.serves(Pool.SERVE)
        assert name.serves(Pool.FORGE)

    def test_a_process_sees_its_own_gpus_alone(self) -> None:
        names = [SlotName(1, None, "h200"), SlotName(3, None, "h200")]
        assert visible_devices(names, inherited=None) == {"CUDA_VISIBLE_DEVICES": "1,3"}
        assert visible_devices(names, inherited="4,5,6,7") == {"CUDA_VISIBLE_DEVICES": "5,7"}
        assert visible_devices(NAMES, inherited="4,5") == {}


class TestLocks:
    def test_the_second_worker_waits_for_the_first(self, folder: Path) -> None:
        first, second = Slots(folder, NAMES), Slots(folder, NAMES)
        first.acquire()
        second.acquire()
        assert (first.missing, second.missing) == ([], NAMES)
        first.close()
        second.acquire()
        assert second.missing == []
        second.close()

    def test_a_process_that_inherited_the_lock_holds_it(self, folder: Path) -> None:
        first, second = Slots(folder, NAMES[:1]), Slots(folder, NAMES[:1])
        first.acquire()
        script = "import sys; print(flush=True); sys.stdin.read()"
        with subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=first.descriptors(NAMES[:1]),
        ) as child:
            assert child.stdout is not None
            child.stdout.readline()
            first.close()
            second.acquire()
            assert second.missing == NAMES[:1]
            child.communicate()
        second.acquire()
        assert second.missing == []
        second.close()

    def test_the_new_holder_learns_who_held_it(self, folder: Path) -> None:
        owners = [new_id(), new_id()]
        first, second = Slots(folder, NAMES), Slots(folder, NAMES)
        assert first.acquire() == set()
        first.sign(owners)
        first.close()
        assert second.acquire() == set(owners)
        second.sign([ME])
        second.close()
        third = Slots(folder, NAMES)
        assert third.acquire() == {ME}
        third.close()

    def test_a_torn_file_names_nobody(self, folder: Path) -> None:
        (folder / "cpu0.serve.lock").write_text(f"{ME}\n0199-torn")
        slots = Slots(folder, NAMES[:1])
        assert slots.acquire() == {UUID(str(ME))}
        slots.close()
