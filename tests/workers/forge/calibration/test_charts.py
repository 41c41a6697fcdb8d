from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from shared.contracts.compression import LayerSensitivity
from workers.forge.calibration.charts import Place, draw, place

KINDS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")


def table(blocks: int, *, gap: str = "") -> list[LayerSensitivity]:
    generator = np.random.default_rng(0)
    return [
        LayerSensitivity(
            layer=f"model.layers.{block}.{kind}",
            shape=(8, 8),
            sqnr_db={
                scheme: middle + float(generator.normal())
                for scheme, middle in {"int8": 40, "w4a16": 14}.items()
                if scheme != "w4a16" or kind != gap
            },
        )
        for block in range(blocks)
        for kind in KINDS
    ]


def absmax(blocks: int) -> dict[tuple[str, ...], NDArray[np.float32]]:
    channels = np.abs(np.random.default_rng(0).normal(size=64)).astype(np.float32)
    return {
        tuple(f"model.layers.{block}.{kind}" for kind in kinds): channels * block  # block 0 has no activity at all
        for block in range(blocks)
        for kinds in (KINDS[:3], KINDS[3:4], KINDS[4:5], KINDS[5:])
    }


class TestPlace:
    @pytest.mark.parametrize(
        ("layer", "where"),
        [
            ("model.layers.12.self_attn.q_proj", Place(12, "self_attn.q_proj")),
            ("transformer.h.3.mlp.c_fc", Place(3, "mlp.c_fc")),
            ("model.layers.7.mlp.experts.31.up_proj", Place(7, "mlp.experts.up_proj")),
            ("model.projector", Place(0, "model.projector")),
            ("blocks.4", Place(4, "blocks")),
        ],
    )
    def test_a_name_says_block_and_kind(self, layer: str, where: Place) -> None:
        assert place(layer) == where


class TestDraw:
    @pytest.mark.parametrize("blocks", [1, 48])
    def test_every_chart_is_a_picture_of_readable_size(self, tmp_path: Path, blocks: int) -> None:
        paths = draw(tmp_path, table(blocks, gap="mlp.down_proj"), absmax(blocks))
        assert paths == ["charts/sensitivity.png", "charts/distribution.png", "charts/activations.png"]
        for path in paths:
            with Image.open(BytesIO((tmp_path / path).read_bytes())) as picture:
                picture.load()
                assert picture.format == "PNG"
                assert picture.width == 1100
                assert 200 <= picture.height <= 1200
                colours = picture.convert("RGB").getcolors(maxcolors=2**24)
            assert colours is not None
            light = sum(count for count, colour in colours if isinstance(colour, tuple) and min(colour) > 200)
            assert light > 0.3 * picture.width * picture.height
            assert len(colours) > 20

    def test_a_table_without_any_figure_has_no_chart(self, tmp_path: Path) -> None:
        """Groups of the only candidate divide no layer's columns."""
        rows = [row.model_copy(update={"sqnr_db": {}}) for row in table(2)]
        assert draw(tmp_path, rows, absmax(2)) == ["charts/activations.png"]
