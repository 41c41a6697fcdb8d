from pathlib import Path

from services.cli.demo_text import paragraphs, questions

LONG = "This sentence is long enough to be worth a question, as most sentences of our documentation are."


class TestParagraphs:
    def test_markup_is_left_behind(self) -> None:
        text = f"**{LONG}** See [the page](page.md) and `code`."
        assert list(paragraphs(text)) == [f"{LONG} See the page and code."]

    def test_lists_are_joined(self) -> None:
        assert list(paragraphs(f"- {LONG}\n- 3.11 is a number\n1. first")) == [f"{LONG} 3.11 is a number first"]

    def test_headings_tables_and_code_are_no_prose(self) -> None:
        text = f"# {LONG}\n\n| {LONG} |\n|---|\n\n```\n{LONG}\n\n{LONG}\n```\n\n<!-- {LONG} -->\n\n{LONG}"
        assert list(paragraphs(text)) == [LONG]

    def test_short_ones_are_passed_over(self) -> None:
        assert list(paragraphs("Too short.")) == []


class TestQuestions:
    def test_files_take_turns(self, tmp_path: Path) -> None:
        (tmp_path / "README.md").write_text(f"{LONG} One.\n\n{LONG} Two.")
        (tmp_path / "CONTRIBUTING.md").write_text(f"{LONG} Three.")
        found = questions(10, root=tmp_path)
        assert [question.source for question in found] == ["README.md", "CONTRIBUTING.md", "README.md"]
        assert found[0].messages == [{"role": "user", "content": f"Explain this: {LONG} One."}]

    def test_no_more_than_asked_for(self, tmp_path: Path) -> None:
        (tmp_path / "README.md").write_text(f"{LONG} One.\n\n{LONG} Two.")
        assert len(questions(1, root=tmp_path)) == 1

    def test_our_documentation_has_enough(self) -> None:
        assert len(questions(48)) == 48

    def test_outside_a_checkout_there_are_none(self, tmp_path: Path) -> None:
        assert questions(48, root=tmp_path) == []
