"""`modelyard chat` against a gateway that says what it is told to."""

import json

from typer.testing import CliRunner, Result

from services.cli.chat import app
from services.cli.output import ExitCode
from tests.services.cli.scripted import Answer, gateway, reply

SSE = {"content_type": "text/event-stream"}


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def said(*words: str, end: bytes = b"data: [DONE]\n\n") -> Answer:
    events = [event(choices=[{"delta": {"content": word}}]) for word in words]
    return reply(200, b"".join([*events, end]), **SSE)


def run(
    *answers: Answer, arguments: tuple[str, ...], stdin: str | None = None
) -> tuple[Result, list[dict[str, object]]]:
    with gateway(*answers) as there:
        where = ("--url", there.url, "--api-key", "modelyard_test")
        result = CliRunner().invoke(app, [*arguments, *where], input=stdin)
    return result, [json.loads(asked.body) for asked in there.asked]


class TestChat:
    def test_writes_the_answer_as_it_comes(self) -> None:
        result, asked = run(said("Hel", "lo"), arguments=("tiny", "Hi", "--temperature", "0", "--system", "Be brief."))
        assert (result.exit_code, result.stdout) == (0, "Hello\n")
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
        assert asked == [{"model": "tiny", "temperature": 0.0, "messages": messages, "stream": True}]

    def test_reads_the_prompt_from_a_pipe(self) -> None:
        result, asked = run(said("yes"), arguments=("tiny",), stdin="from a pipe")
        assert result.stdout == "yes\n"
        assert asked[0]["messages"] == [{"role": "user", "content": "from a pipe"}]

    def test_json_is_the_whole_answer(self) -> None:
        result, asked = run(reply(200, {"choices": []}), arguments=("tiny", "Hi", "--json"))
        assert json.loads(result.stdout) == {"choices": []}
        assert "stream" not in asked[0]

    def test_an_answer_that_breaks_off_is_a_failure(self) -> None:
        broken = event(error={"message": "The engine died while it answered.", "code": "engine_lost"})
        result, _ = run(said("Hel", end=broken), arguments=("tiny", "Hi"))
        assert (result.exit_code, result.stdout) == (ExitCode.FAILED, "Hel\n")
        assert "The engine died" in result.stderr

    def test_an_unknown_model_says_what_to_do(self) -> None:
        refusal = {"code": "model_not_found", "detail": "There is no model 'x'.", "param": "model"}
        result, _ = run(reply(404, refusal), arguments=("x", "Hi"))
        assert result.exit_code == ExitCode.REFUSED
        assert "modelyard models list" in result.stderr
