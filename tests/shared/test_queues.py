"""The class table and the names of queues."""

from pathlib import Path

import pytest

from shared import queues
from shared.contracts.jobs import Pool
from shared.errors import UnknownClass
from shared.queues import BadClassFile, read_classes

NEW = """
[classes.b200]
memory_gib = 178.4
compute_capability = "10.0"
dtypes = ["bf16", "fp8"]
devices_per_host = 8
price_per_gpu_hour = 5.5
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "classes.toml"


class TestBuiltInTable:
    def test_has_the_documented_classes(self) -> None:
        assert set(read_classes()) == {
            "h200", "h100", "a100-80g", "a100-40g", "l40s", "rtx4090", "rtx3090", "jetson-orin", "cpu",
        }  # fmt: skip

    def test_only_recent_gpus_run_fp8(self) -> None:
        able = {name for name, each in read_classes().items() if "fp8" in each.dtypes}
        assert able == {"h200", "h100", "l40s", "rtx4090"}
        assert read_classes()["cpu"].compute_capability is None

    def test_memory_is_told_in_bytes_of_one_device(self) -> None:
        assert read_classes()["rtx4090"].memory_bytes == 24 * 2**30


class TestOwnTable:
    def test_adds_a_class(self, file: Path) -> None:
        file.write_text(NEW)
        found = read_classes(file)
        assert {"b200", "h200", "cpu"} <= set(found)
        assert found["b200"].dtypes == ("bf16", "fp8")

    def test_changes_one_key_of_a_known_class(self, file: Path) -> None:
        file.write_text("[classes.h200]\nprice_per_gpu_hour = 2.1\n")
        found = read_classes(file)["h200"]
        assert (found.price_per_gpu_hour, found.devices_per_host) == (2.1, 8)

    def test_replaces_the_table(self, file: Path) -> None:
        file.write_text(f"replace = true\n{NEW}")
        assert list(read_classes(file)) == ["b200"]

    @pytest.mark.parametrize(
        ("text", "key"),
        [
            ("[classes.h200]\nmemory_gb = 3\n", "classes.h200.memory_gb"),
            ("[classes.h200]\nmemory_gib = -1\n", "classes.h200.memory_gib"),
            ('[classes.h200]\nmemory_gib = "much"\n', "classes.h200.memory_gib"),
            ("[classes.h200]\nmemory_gib = inf\n", "classes.h200.memory_gib"),
            ('[classes.h200]\ndtypes = ["bf17"]\n', "classes.h200.dtypes.0"),
            ("[classes.new]\nmemory_gib = 3.0\n", "classes.new.dtypes"),
            (f"{NEW}name = 'x'\n", "classes.b200.name"),
            (NEW.replace("b200", "B_200"), "classes.B_200"),
            (NEW.replace("b200", "auto"), "classes.auto"),
            (NEW.replace("b200", "control"), "classes.control"),
            ("classes = 3\n", "classes"),
            ("[classes]\nh200 = 3\n", "classes.h200"),
            ("replace = 1\n", "replace"),
            ("class = 1\n", "class"),
            ("replace = true\n", "classes"),
        ],
    )
    def test_a_mistake_is_told_by_its_key(self, file: Path, text: str, key: str) -> None:
        file.write_text(text)
        with pytest.raises(BadClassFile, match=rf"classes\.toml: {key}: "):
            read_classes(file)

    @pytest.mark.parametrize("content", [b"[classes", b"\xff\xfe"])
    def test_what_is_not_toml_is_told_with_the_file(self, file: Path, content: bytes) -> None:
        file.write_bytes(content)
        with pytest.raises(BadClassFile, match=r"classes\.toml: "):
            read_classes(file)

    def test_a_missing_file_is_told(self, file: Path) -> None:
        with pytest.raises(BadClassFile, match=r"classes\.toml"):
            read_classes(file)


class TestNames:
    def test_a_queue_is_a_class_and_a_pool(self) -> None:
        assert queues.queue_name("a100-80g", Pool.FORGE) == "a100-80g.forge"
        assert queues.split_queue("a100-80g.forge") == ("a100-80g", Pool.FORGE)

    @pytest.mark.parametrize("name", ["control", "h200", ".serve", "h200.train", ""])
    def test_other_names_are_no_queues_of_a_class(self, name: str) -> None:
        with pytest.raises(ValueError, match=r"serve|queue|train"):
            queues.split_queue(name)

    def test_every_class_has_two_queues_and_the_courier_one(self) -> None:
        names = queues.queue_names()
        assert len(names) == 2 * len(queues.gpu_classes()) + 1
        assert {"cpu.serve", "cpu.forge", "control"} <= set(names)

    def test_an_unknown_class_is_refused_with_those_there_are(self) -> None:
        with pytest.raises(UnknownClass, match=r"h200.*cpu") as refused:
            queues.gpu_class("gtx1080")
        assert refused.value.param == "gpu_class"
