"""Jobs in the words of a terminal."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from services.cli.output import say, table

WIDEST = 120  # characters of a text that is shown in a table
LONGEST = 1000  # of a field or a line of its own


def show_job(job: Mapping[str, Any]) -> None:
    """One job, field by field; empty fields are left out."""
    show_fields(_fields(job))


def show_fields(fields: Iterable[tuple[str, Any]]) -> None:
    """Names and values, a line each; empty ones are left out."""
    for name, value in fields:
        if value not in (None, "", {}):
            say(f"{name:<10} {clip(str(value), width=LONGEST)}")


def show_jobs(jobs: Sequence[Mapping[str, Any]]) -> None:
    """Jobs as a table."""
    heads = ("id", "kind", "state", "progress", "queue", "tier", "priority", "age")
    table(
        heads,
        [
            (
                job["id"], job["kind"], state(job), progress(job), job["queue"],
                job["tier"], job["priority"], age(job["created_at"]),
            )
            for job in jobs
        ],
    )  # fmt: skip


def show_results(lines: Sequence[Mapping[str, Any]], *, prompts: Sequence[str] = ()) -> None:
    """Results of an inference job, beside the prompts they belong to where those are known."""
    width = WIDEST // 2 if prompts else WIDEST
    rows = []
    for line in lines:
        asked = [clip(prompts[line["index"]], width=width)] if prompts else []
        text, finish = _answer(line)
        rows.append((line["index"], *asked, clip(text, width=width), finish))
    table(("line", *(["prompt"] if prompts else []), "text", "finish"), rows)


def show_plan(draft: Mapping[str, Any]) -> None:
    """Where a job would run (`--validate-only`)."""
    plan = draft["plan"]
    shown = {
        "kind": draft["kind"],
        "queue": plan["queue"],
        "devices": plan["devices"],
        "memory": f"{plan['memory_bytes'] / 2**30:.2f} GiB",
        "lines": draft["total"],
        "planned": f"{draft['planned_gpu_s']:.1f} GPU-seconds, {draft['cost']:.6f}",
        "because": plan["reason"],
    }
    for name, value in shown.items():
        if value is not None:
            say(f"{name:<10} {value}")


def show_explanation(found: Mapping[str, Any]) -> None:
    """Why a job is where it is."""
    say(found["sentence"])
    ahead = " ".join(f"{count} {tier}" for tier, count in found["ahead"].items() if count)
    share, plan = found["share"], found["plan"]
    shown = {
        "state": f"{found['state']} ({found['cause']})",
        "queue": f"{found['queue']} · {found['depth']} due",
        "position": found["position"],
        "ahead": ahead,
        "workers": f"{found['live_workers']} live, {found['free_slots']} free slots",
        "share": f"virtual time {share['virtual_time']:.1f}, the queue's {share['queue_virtual_time']:.1f}",
        "plan": plan.get("reason"),
        "children": f"{found['children_ended']} of {found['children']} ended" if found["children"] else None,
    }
    for name, value in shown.items():
        if value not in (None, ""):
            say(f"{name:<10} {value}")


def state(job: Mapping[str, Any]) -> str:
    """A job's state, and what the state alone does not say: paused, being cancelled."""
    held, stopping = job.get("held_at"), job.get("cancel_requested_at")
    live = job["state"] in ("queued", "running")
    note = " (paused)" if held and live else " (cancelling)" if stopping and live else ""
    return f"{job['state']}{note}"


def progress(job: Mapping[str, Any]) -> str:
    """`12/48 lines`."""
    found = job["progress"]
    total = "" if found["total"] is None else f"/{found['total']}"
    return f"{found['done']}{total} {found['unit']}" if found["done"] or total else ""


def cause_of_end(job: Mapping[str, Any]) -> str:
    """Why a job did not succeed, in one line."""
    error = job.get("error")
    if not error:
        return ""
    detail = f": {error['detail']}" if error.get("detail") else ""
    return f"{error['title']}{detail} ({error['code']})"


def of_unix(seconds: int | None) -> str | None:
    """A time in Unix seconds, as OpenAI's objects have it, in RFC 3339."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()


def age(moment: str) -> str:
    """How long ago something was: `5s`, `3m`, `2h`, `4d`."""
    seconds = max(0, int((datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def clip(text: str, *, width: int = WIDEST) -> str:
    """A text on one line without control characters, cut to `width` characters."""
    flat = " ".join("".join(c if c.isprintable() or c.isspace() else "�" for c in text).split())
    return flat if len(flat) <= width else f"{flat[: width - 1]}…"


def _answer(line: Mapping[str, Any]) -> tuple[str, str]:
    """What came of a line: its text, or its error."""
    if output := line.get("output"):
        return output["text"], output["finish_reason"]
    error = line.get("error") or {}
    return f"{error.get('code')}: {error.get('detail') or error.get('title')}", "error"


def _fields(job: Mapping[str, Any]) -> list[tuple[str, Any]]:
    usage, plan = job["usage"], job["plan"]
    spent = f"{usage['prompt_tokens']} + {usage['completion_tokens']} tokens, {usage['gpu_seconds']:.2f} GPU-seconds"
    return [
        ("id", job["id"]),
        ("kind", job["kind"]),
        ("state", state(job)),
        ("because", cause_of_end(job)),
        ("progress", progress(job)),
        ("attempt", f"{job['attempt']} ({job['failure_count']} failed, {job['lost_count']} lost)"),
        ("queue", f"{job['queue']} · {job['tier']} · priority {job['priority']}"),
        ("plan", plan.get("reason")),
        ("usage", spent if usage["gpu_seconds"] or usage["completion_tokens"] else None),
        ("created", job["created_at"]),
        ("started", job["started_at"]),
        ("finished", job["finished_at"]),
        ("deadline", job["deadline"]),
        ("after", job["after_job_id"]),
        ("retry of", job["retry_of"]),
        ("metadata", " ".join(f"{key}={value}" for key, value in job["metadata"].items())),
        ("webhook", (job["webhook"] or {}).get("url")),
        ("secret", (job["webhook"] or {}).get("secret")),
        ("artifacts", " ".join(f"{each['name']} ({each['id']})" for each in job["artifacts"])),
    ]
