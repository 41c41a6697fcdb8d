"""Answers against the right ones: exact match, BLEU, chrF and ROUGE."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

from shared.contracts.evaluation import Metric

ROUGE = ("rouge1", "rouge2", "rougeL")


class Judgement(NamedTuple):
    """Metrics by name, and the signatures that make BLEU and chrF repeatable."""

    metrics: dict[str, float]
    signature: str | None


def normalized(text: str) -> str:
    """What exact match compares: outer white space gone, inner white space one blank; case and marks count."""
    return " ".join(text.split())


def is_exact(prediction: str, answers: Sequence[str]) -> bool:
    """Whether a prediction is one of the right answers."""
    return normalized(prediction) in {normalized(answer) for answer in answers}


def judged(predictions: Sequence[str], answers: Sequence[Sequence[str]], metrics: Sequence[Metric]) -> Judgement:
    """Every metric of predictions whose right answers are `answers[i]`, one or more.

    `exact_match` is a share; `bleu` and `chrf` are the corpus scores of sacrebleu (Post 2018, arXiv 1804.08771) out of
    100, over all answers as references; `rouge1`, `rouge2` and `rougeL` the mean F1 of rouge_score (Lin 2004), the best
    of a line's answers, words in lower case without stemming. rouge_score's words are a-z and 0-9: other scripts are 0.
    Its longest common subsequence is Python: about a second for two texts of 3,000 words.
    """
    found: dict[str, float] = {}
    signatures = []
    if "exact_match" in metrics:
        right = sum(is_exact(*pair) for pair in zip(predictions, answers, strict=True))
        found["exact_match"] = right / len(predictions)
    for metric in ("bleu", "chrf"):
        if metric in metrics:
            found[metric], signature = _corpus_score(metric, predictions, answers)
            signatures.append(f"{metric}: {signature}")
    if "rouge" in metrics:
        found |= _rouge(predictions, answers)
    return Judgement(found, "; ".join(signatures) or None)


def _corpus_score(metric: str, predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> tuple[float, str]:
    from sacrebleu.metrics.bleu import BLEU  # noqa: PLC0415 - half a second, for one kind of task
    from sacrebleu.metrics.chrf import CHRF  # noqa: PLC0415

    logging.getLogger("sacrebleu").setLevel(logging.ERROR)  # its advice about tokenized text is for translators
    scorer = BLEU() if metric == "bleu" else CHRF()
    score = scorer.corpus_score(predictions, transposed(answers))  # type: ignore[arg-type] # None stands for no more
    return float(score.score), str(scorer.get_signature())


def transposed(answers: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """sacrebleu's form of references: the first answer of every line, the second …; None where a line has no more."""
    most = max(len(those) for those in answers)
    return [[those[k] if k < len(those) else None for those in answers] for k in range(most)]


def _rouge(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> dict[str, float]:
    from rouge_score.rouge_scorer import RougeScorer  # noqa: PLC0415 - brings nltk along

    scorer = RougeScorer(list(ROUGE), use_stemmer=False)
    scores = [scorer.score_multi(those, text) for those, text in zip(answers, predictions, strict=True)]
    return {name: sum(score[name].fmeasure for score in scores) / len(scores) for name in ROUGE}
