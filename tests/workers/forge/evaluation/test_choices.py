import pytest
import torch

from workers.forge.data.tasks import Choice
from workers.forge.evaluation.choices import Request, log_likelihoods, requests_of
from workers.forge.evaluation.subjects import Runner
from workers.forge.evaluation.works import ChoiceLine
from workers.forge.refusing import Refused

CHOICES = [
    Choice("The list is", ("empty", "not empty, and it has three items.", "sorted by its keys"), 0),
    Choice("def read(self):\n", ("    return self.data", "pass"), 1),
    Choice("Is it so? Answer with A or B. Answer:", ("A", "B"), 1),
]


def measured(model: Runner, requests: list[Request]) -> list[float]:
    with torch.inference_mode():
        return log_likelihoods(requests, model, done=lambda _: None)


def directly(model: Runner, request: Request) -> float:
    """One token after the other, in a forward pass each."""
    total = 0.0
    with torch.inference_mode():
        for at in range(request.start, len(request.ids)):
            logits = model.model(input_ids=torch.tensor([request.ids[:at]])).logits[0, -1].double()
            total += float(logits.log_softmax(-1)[request.ids[at]])
    return total


class TestRequests:
    def test_the_choice_is_what_follows_the_prompts_tokens(self, base: Runner) -> None:
        encode, decode = base.reader.encode, base.reader.tokenizer.decode
        request = requests_of(base.reader, CHOICES[0])[0]
        assert list(request.ids) == encode("The list is empty")
        assert decode(request.ids[request.start :]) == " empty"

    @pytest.mark.parametrize(
        ("prompt", "choice", "scored"),
        [
            ("Answer:", "yes", " yes"),  # one blank, where there is no white space
            ("Answer: ", "yes", " yes"),  # white space of the prompt goes over
            ("Answer:", "\nyes", "\nyes"),
            ("Answer:\n\n", "yes", "\n\nyes"),
            (" ", "yes", " yes"),  # nothing to follow: the end of a text stands before it
        ],
    )
    def test_white_space_at_the_seam(self, base: Runner, prompt: str, choice: str, scored: str) -> None:
        request = requests_of(base.reader, Choice(prompt, (choice, choice), 0))[0]
        assert base.reader.tokenizer.decode(request.ids[request.start :]) == scored
        assert request.start > 0


class TestLogLikelihoods:
    def test_they_are_sums_over_the_choices_tokens(self, base: Runner) -> None:
        requests = [request for choice in CHOICES for request in requests_of(base.reader, choice)]
        assert measured(base, requests) == pytest.approx([directly(base, each) for each in requests], rel=1e-4)

    def test_padding_changes_nothing(self, base: Runner) -> None:
        requests = [request for choice in CHOICES for request in requests_of(base.reader, choice)]
        alone = [measured(base, [request])[0] for request in requests]
        assert measured(base, requests) == pytest.approx(alone, rel=1e-5)

    def test_choices_of_one_token_share_a_row(self, base: Runner) -> None:
        requests = requests_of(base.reader, CHOICES[2])
        rows = []
        hook = base.model.register_forward_pre_hook(
            lambda _module, _args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
        )
        told: list[int] = []
        with torch.inference_mode():
            found = log_likelihoods(requests, base, done=told.append)
        hook.remove()
        assert (rows, sum(told)) == ([1], 2)
        assert found == pytest.approx([directly(base, each) for each in requests], rel=1e-4)

    def test_only_logits_that_are_looked_at_are_computed(self, base: Runner) -> None:
        shapes = []
        hook = base.model.lm_head.register_forward_hook(lambda _module, _args, output: shapes.append(output.shape[1]))
        request = requests_of(base.reader, CHOICES[0])[0]
        measured(base, [request])
        hook.remove()
        assert shapes == [len(request.ids) - request.start]

    def test_a_model_that_overflows_is_named(self, loud: Runner) -> None:
        with pytest.raises(Refused, match="loud") as refused:
            measured(loud, requests_of(loud.reader, CHOICES[0]))
        assert refused.value.code == "non_finite_logits"


class TestJudge:
    def test_the_longer_choice_may_win_by_character(self) -> None:
        line = ChoiceLine(Choice("p", ("ab", "abcdefgh"), 1), {})
        judged = line.judge([-4.0, -8.0])
        assert (judged["prediction"], judged["right"]) == (0, False)
        assert (judged["prediction_normalized"], judged["right_normalized"]) == (1, True)
