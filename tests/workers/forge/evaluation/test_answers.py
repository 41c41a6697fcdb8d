import pytest

from workers.forge.evaluation.answers import is_exact, judged, transposed

# The example of sacrebleu's README: BLEU = 48.53 82.4/50.0/45.5/37.5 (BP = 0.943 …), chrF2 = 59.73.
PREDICTIONS = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
ANSWERS = [
    ("The dog bit the man.", "The dog had bit the man."),
    ("It was not unexpected.", "No one was surprised."),
    ("The man bit him first.", "The man had bitten the dog."),
]
# The example of rouge_score's README, by hand: 6, 2 and 5 of 8 (7) words (pairs) here and 9 (8) there.
FOX = "The quick brown fox jumps over the lazy dog"
LOG = "The quick brown dog jumps on the log."


class TestExactMatch:
    @pytest.mark.parametrize(
        ("prediction", "right"),
        [("two  words", True), ("\n two\twords ", True), ("Two words", False), ("two words.", False), ("", False)],
    )
    def test_white_space_does_not_count(self, prediction: str, *, right: bool) -> None:
        assert is_exact(prediction, ["another", "two words"]) is right

    def test_it_is_a_share(self) -> None:
        found = judged(["4", "5", "six "], [("4",), ("6",), ("6", "six")], ["exact_match"])
        assert found.metrics == {"exact_match": pytest.approx(2 / 3)}
        assert found.signature is None


class TestSacrebleu:
    def test_the_librarys_own_example(self) -> None:
        found = judged(PREDICTIONS, ANSWERS, ["bleu", "chrf"])
        assert found.metrics == {"bleu": pytest.approx(48.53, abs=0.005), "chrf": pytest.approx(59.73, abs=0.005)}
        assert found.signature is not None
        assert found.signature.startswith("bleu: nrefs:2|case:mixed|eff:no|tok:13a|smooth:exp|version:")
        assert "; chrf: nrefs:2|case:mixed|" in found.signature

    def test_lines_may_have_different_numbers_of_answers(self) -> None:
        found = judged(PREDICTIONS, [ANSWERS[0], ANSWERS[1][:1], (*ANSWERS[2], PREDICTIONS[2])], ["bleu"])
        assert found.signature is not None
        assert "nrefs:var" in found.signature
        assert found.metrics["bleu"] > judged(PREDICTIONS, ANSWERS, ["bleu"]).metrics["bleu"]

    def test_references_are_by_answer(self) -> None:
        assert transposed([("a",), ("b", "c", "d")]) == [["a", "b"], [None, "c"], [None, "d"]]


class TestRouge:
    def test_the_librarys_own_example(self) -> None:
        found = judged([LOG], [(FOX,)], ["rouge"])
        assert found.metrics == {
            "rouge1": pytest.approx(2 * 6 / (8 + 9)),
            "rouge2": pytest.approx(2 * 2 / (7 + 8)),
            "rougeL": pytest.approx(2 * 5 / (8 + 9)),
        }

    def test_the_best_answer_counts(self) -> None:
        found = judged([LOG, LOG], [(FOX, LOG), ("nothing alike",)], ["rouge"]).metrics
        assert found == {"rouge1": 0.5, "rouge2": 0.5, "rougeL": 0.5}
