"""What models are told."""

from services.documents import prompts, schemas
from services.documents.operations import empty_prompt, task_of
from services.documents.tasks import Part
from shared.contracts.documents import DocumentSetSpec, Label

SHAPE = schemas.shape(
    {
        "type": "object",
        "properties": {
            "company": {"type": "string", "description": "The\nregistered name"},
            "due": {"type": "string", "format": "date"},
            "kind": {"enum": ["A", "B", None]},
            "lines": {
                "type": "array",
                "description": "one a row",
                "items": {"type": "object", "properties": {"amount": {"type": "number"}}},
            },
        },
    }
)


def spec(**operation: object) -> DocumentSetSpec:
    return DocumentSetSpec.model_validate({"model": "m", "files": ["file-1"], "operation": operation})


class TestExtract:
    def test_it_names_every_field_with_its_type_and_description(self) -> None:
        said = prompts.extract(SHAPE, instructions="Use the latest year.", hint="- revenue (also: turnover)")
        for line in (
            "- company (string): The registered name",
            "- due (date, YYYY-MM-DD)",
            '- kind (one of "A", "B", null)',
            "- lines (list): one a row",
            "- lines.*.amount (number)",
            "Use the latest year.",
            "- revenue (also: turnover)",
            '{"company": CELL, "due": CELL, "kind": CELL, "lines": [{"amount": CELL}, …]}',
        ):
            assert line in said

    def test_the_text_comes_last_with_marks_of_its_pages(self) -> None:
        text = prompts.marked([(3, "three\n"), (4, "four")])
        said = prompts.about("Do it.", text)
        assert said == "Do it.\n\n<<<\n[page 3]\nthree\n[page 4]\nfour\n>>>"


class TestCustom:
    def test_names_are_replaced_and_braces_kept(self) -> None:
        task = task_of(spec(type="custom", template="{filename} p. {pages} #{chunk} {{}}: {text}"), context=8192)
        part = Part(number=2, pieces=((3, "a {pages}"), (4, "b")), filename="{text}.pdf")
        assert task.prompt(part) == "{text}.pdf p. 3–4 #2 {}: a {pages}\nb"

    def test_the_prompt_of_no_part_is_what_all_have_in_common(self) -> None:
        assert empty_prompt(task_of(spec(type="custom", template="Say {text}!"), context=8192)) == "Say !"


class TestClassify:
    def test_labels_are_named_with_their_meaning(self) -> None:
        labels = [Label(name="invoice", description="asks for money"), Label(name="other")]
        said = prompts.classify(labels, multi=True, instructions=None, hint="")
        assert "- invoice: asks for money\n- other" in said
        assert '{"labels": [' in said


class TestRepair:
    def test_problems_are_told_up_to_a_length(self) -> None:
        said = prompts.repair([f"field{number}: " + "x" * 150 for number in range(20)], json_form=True)
        assert "- field0: x" in said
        assert "more of this kind" in said
        assert len(said) < prompts.REPAIR_CHARACTERS + 200


def test_runs_of_pages_are_written_short() -> None:
    assert prompts.page_range([4, 3, 9, 7, 8, 3]) == "3–4, 7–9"
    assert prompts.page_range([]) == ""
