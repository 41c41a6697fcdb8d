from collections import Counter
from pathlib import Path

import pytest

from shared.contracts.forge_orders import Data
from tests.workers.forge.tuning.data.conftest import Load
from workers.forge.refusing import Refused


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A file of forty texts, and one of ten others."""
    for name, count in (("many", 40), ("few", 10)):
        lines = (f'{{"text": "{name} {each}"}}\n' for each in range(count))
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    return tmp_path / "many.jsonl", tmp_path / "few.jsonl"


class TestWeights:
    def test_a_sample_is_seen_as_often_as_its_source_weighs(self, files: tuple[Path, Path], loaded: Load) -> None:
        many, few = files
        data = loaded(Data(path=many, name="many"), Data(path=few, name="few", weight=3))
        seen = Counter(tuple(row.ids_T.tolist()) for row in data.train)
        assert Counter(seen.values()) == {1: 40, 3: 10}
        assert (data.facts.kept, data.facts.rows, data.facts.left_out) == (50, 70, {})
        assert data.facts.sources == {"many": 40, "few": 10}

    def test_a_fraction_is_drawn_by_the_seed(self, files: tuple[Path, Path], loaded: Load) -> None:
        half = Data(path=files[0], name="many", weight=0.5)
        data = loaded(half)
        assert 8 < data.facts.kept < 32
        assert data.facts.left_out == {"weight": 40 - data.facts.kept}
        assert loaded(half).facts.sha256 == data.facts.sha256
        assert loaded(half, seed=1).facts.sha256 != data.facts.sha256
        more = loaded(Data(path=files[0], name="many", weight=1.5))
        assert (more.facts.kept, more.facts.rows) == (40, 40 + data.facts.kept)

    def test_something_has_to_be_left(self, files: tuple[Path, Path], loaded: Load) -> None:
        with pytest.raises(Refused) as refused:
            loaded(Data(path=files[1], name="few", weight=1e-6))
        assert (refused.value.code, refused.value.detail) == ("not_enough_data", "samples left out: 10 weight")
