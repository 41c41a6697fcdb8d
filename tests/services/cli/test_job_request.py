import io
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer

from services.cli import job_request


class TestLines:
    def test_prompts(self) -> None:
        assert job_request.lines(["a", "b"], None, chat=False, system=None) == {"prompts": ["a", "b"]}

    def test_a_text_file_has_a_prompt_a_line(self, tmp_path: Path) -> None:
        file = tmp_path / "prompts.txt"
        file.write_text('one\n\n{"prompt": "two"}\n')
        assert job_request.lines(["zero"], file, chat=False, system=None) == {
            "prompts": ["zero", "one", '{"prompt": "two"}']
        }

    def test_a_jsonl_file_has_an_object_a_line(self, tmp_path: Path) -> None:
        file = tmp_path / "prompts.jsonl"
        file.write_text('{"prompt": "one\\ntwo"}\n\n{"prompt": "three"}\n')
        assert job_request.lines([], file, chat=False, system=None) == {"prompts": ["one\ntwo", "three"]}

    def test_chats(self, tmp_path: Path) -> None:
        turns = [{"role": "user", "content": "hello"}]
        file = tmp_path / "chats.jsonl"
        file.write_text(json.dumps({"messages": turns}))
        assert job_request.lines([], file, chat=False, system=None) == {"messages": [turns]}

    def test_prompts_become_chats(self) -> None:
        found = job_request.lines(["hello"], None, chat=False, system="be brief")
        assert found == {
            "messages": [[{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]]
        }

    def test_prompts_and_chats_do_not_mix(self, tmp_path: Path) -> None:
        file = tmp_path / "chats.jsonl"
        file.write_text('{"messages": [{"role": "user", "content": "hello"}]}')
        with pytest.raises(typer.BadParameter, match="--chat"):
            job_request.lines(["a"], file, chat=False, system=None)

    @pytest.mark.parametrize("line", ['{"prompt": "a", "x": 1}', '["a"]', '{"text": "a"}', "a"])
    def test_a_bad_line_is_named(self, tmp_path: Path, line: str) -> None:
        file = tmp_path / "prompts.jsonl"
        file.write_text(f'{{"prompt": "fine"}}\n{line}\n')
        with pytest.raises(typer.BadParameter, match="line 2"):
            job_request.lines([], file, chat=False, system=None)

    def test_standard_input(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO("one\ntwo\n"))
        assert job_request.lines([], Path("-"), chat=False, system=None) == {"prompts": ["one", "two"]}

    def test_a_file_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(typer.BadParameter, match=r"nothing\.txt"):
            job_request.lines([], tmp_path / "nothing.txt", chat=False, system=None)


class TestOptions:
    def test_what_was_not_given_is_left_to_the_platform(self) -> None:
        made = job_request.from_options(
            "inference", spec={"model": "m", "seed": None, "stop": []}, request={"priority": 0, "tier": None}
        )
        assert made == {"kind": "inference", "spec": {"model": "m"}, "priority": 0}

    def test_fields_are_json_or_text(self) -> None:
        assert job_request.fields(["steps=3", "name=a b", "flag=true", "empty="]) == {
            "steps": 3, "name": "a b", "flag": True, "empty": "",
        }  # fmt: skip

    def test_a_pair_needs_a_key(self) -> None:
        with pytest.raises(typer.BadParameter, match="KEY=VALUE"):
            job_request.pairs(["team"], "--metadata")

    def test_a_request_file_holds_an_object(self, tmp_path: Path) -> None:
        file = tmp_path / "job.json"
        file.write_text("[]")
        with pytest.raises(typer.BadParameter, match="one JSON object"):
            job_request.from_file(file)


class TestMoments:
    NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ("90s", "2026-01-31T12:01:30+00:00"),
            ("1.5h", "2026-01-31T13:30:00+00:00"),
            ("1d", "2026-02-01T12:00:00+00:00"),
            ("2026-05-01T08:00:00Z", "2026-05-01T08:00:00+00:00"),
            ("2026-05-01T08:00:00+02:00", "2026-05-01T08:00:00+02:00"),
        ],
    )
    def test_times_and_spans(self, given: str, expected: str) -> None:
        assert job_request.moment(given, "--deadline", now=self.NOW) == expected

    def test_a_time_without_a_zone_is_local(self) -> None:
        found = job_request.moment("2026-05-01T08:00:00", "--deadline")
        assert found is not None
        assert datetime.fromisoformat(found).tzinfo is not None

    @pytest.mark.parametrize("given", ["soon", "5", "5 minutes", "h"])
    def test_anything_else_is_refused(self, given: str) -> None:
        with pytest.raises(typer.BadParameter):
            job_request.moment(given, "--deadline")
