from collections.abc import Mapping

import pytest

from shared.contracts.compression import LayerSensitivity, Recommendation, Scheme
from workers.forge.calibration.recommending import FLOOR_DB, MEDIAN_DB, recommend
from workers.forge.calibration.sensitivity import Smoothing

BLOCKS = 10
KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TOGETHER = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
GROUPS = [tuple(f"{block}.{kind}" for kind in kinds) for block in range(BLOCKS) for kinds in TOGETHER]  # 40: 4 may go


def recommended(
    db: Mapping[Scheme, float],
    *,
    but: Mapping[tuple[str, Scheme], float | None] | None = None,
    smoothing: Smoothing | None = None,
    plain: Scheme = Scheme.BF16,
) -> Recommendation:
    """What follows when every layer has the same figures, `but` for some; None is no figure."""
    table = []
    for name in (f"{block}.{kind}" for block in range(BLOCKS) for kind in KINDS):
        found = {scheme: (but or {}).get((name, scheme), value) for scheme, value in db.items()}
        values = {str(scheme): value for scheme, value in found.items() if value is not None}
        table.append(LayerSensitivity(layer=name, shape=(8, 8), sqnr_db=values))
    return recommend(table, GROUPS, list(db), smoothing=smoothing, plain=plain)


class TestScheme:
    def test_the_smallest_weights_that_are_good_enough(self) -> None:
        found = recommended({Scheme.INT8: 40, Scheme.W8A16: 45, Scheme.W4A16: MEDIAN_DB})
        assert (found.scheme, found.ignore, found.smoothing_strength) == (Scheme.W4A16, ["lm_head"], None)

    def test_a_median_below_the_threshold_does_not_do(self) -> None:
        found = recommended({Scheme.W8A16: 45, Scheme.W4A16: MEDIAN_DB - 0.1})
        assert found.scheme is Scheme.W8A16
        assert "w4a16: median 17.9 dB, too much noise: below 18 dB." in found.reasons

    def test_of_one_size_faster_arithmetic_then_less_noise(self) -> None:
        assert recommended({Scheme.W8A16: 45, Scheme.FP8_DYNAMIC: 31}).scheme is Scheme.FP8_DYNAMIC
        assert recommended({Scheme.FP8_DYNAMIC: 31, Scheme.INT8: 40, Scheme.W8A16: 45}).scheme is Scheme.INT8

    @pytest.mark.parametrize("order", [(Scheme.FP8, Scheme.FP8_DYNAMIC), (Scheme.FP8_DYNAMIC, Scheme.FP8)])
    def test_of_equals_the_first_that_was_named(self, order: tuple[Scheme, Scheme]) -> None:
        assert recommended(dict.fromkeys(order, 31.0)).scheme is order[0]

    @pytest.mark.parametrize("plain", [Scheme.BF16, Scheme.FP16])
    def test_nothing_when_nothing_is_good_enough(self, plain: Scheme) -> None:
        found = recommended({Scheme.NVFP4: 12, Scheme.W4A16: 15}, plain=plain)
        assert (found.scheme, found.ignore) == (plain, ["lm_head"])
        assert found.reasons[-1] == f"No candidate is good enough: the model stays in {plain}."


class TestLayersLeftAlone:
    def test_those_below_the_floor_and_those_that_run_together_with_them(self) -> None:
        found = recommended(
            {Scheme.W4A16: 20}, but={("3.k_proj", Scheme.W4A16): FLOOR_DB - 1, ("7.down_proj", Scheme.W4A16): 5}
        )
        assert found.scheme is Scheme.W4A16
        assert found.ignore == ["lm_head", "3.q_proj", "3.k_proj", "3.v_proj", "7.down_proj"]
        assert any("the worst is 7.down_proj with 5.0 dB" in reason for reason in found.reasons)

    def test_the_floor_itself_is_good_enough(self) -> None:
        found = recommended({Scheme.W4A16: 20}, but={("3.k_proj", Scheme.W4A16): FLOOR_DB})
        assert found.ignore == ["lm_head"]

    def test_those_that_groups_do_not_divide(self) -> None:
        found = recommended({Scheme.W4A16: 20}, but={("9.o_proj", Scheme.W4A16): None})
        assert found.ignore == ["lm_head", "9.o_proj"]

    def test_a_tenth_of_the_groups_at_most(self) -> None:
        bad: dict[tuple[str, Scheme], float | None] = {(f"{block}.down_proj", Scheme.W4A16): 5.0 for block in range(4)}
        db = {Scheme.W8A16: 45.0, Scheme.W4A16: 20.0}
        assert recommended(db, but=bad).scheme is Scheme.W4A16
        found = recommended(db, but=bad | {("4.down_proj", Scheme.W4A16): 5.0})
        assert (found.scheme, found.ignore) == (Scheme.W8A16, ["lm_head"])
        assert any("5 layers would have to be left alone" in reason for reason in found.reasons)

    def test_a_scheme_that_divides_nothing_is_no_candidate(self) -> None:
        names = [name for group in GROUPS for name in group]
        found = recommended({Scheme.W4A16: 20, Scheme.W8A16: 45}, but=dict.fromkeys((n, Scheme.W4A16) for n in names))
        assert found.scheme is Scheme.W8A16


class TestSmoothing:
    def test_the_best_strength_is_passed_on_and_explained(self) -> None:
        found = recommended({Scheme.INT8: 40}, smoothing=Smoothing(0.6, {0.0: 35.0, 0.5: 39.0, 0.6: 41.0}))
        assert found.smoothing_strength == 0.6
        assert found.reasons[-1].startswith("SmoothQuant of strength 0.6 takes int8 from 35.0 to 41.0 dB")

    def test_none_is_zero(self) -> None:
        found = recommended({Scheme.INT8: 40}, smoothing=Smoothing(0.0, {0.0: 41.0, 0.5: 40.0}))
        assert found.smoothing_strength == 0
        assert found.reasons[-1].startswith("SmoothQuant does not help int8")
