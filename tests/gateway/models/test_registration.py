"""`POST /v1/models`: a job of its kind; what can never be registered is refused before there is one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from tests.gateway.conftest import Gateway
from tests.gateway.served import refused, rows
from tests.services.imports import build


def upload(client: httpx.Client, folder: Path, *, purpose: str = "model") -> dict[str, str]:
    found = {}
    for path in sorted(folder.iterdir()):
        answer = client.post("/v1/files", files={"file": (path.name, path.read_bytes())}, data={"purpose": purpose})
        found[path.name] = answer.json()["id"]
    return found


class TestRegister:
    def test_is_a_job_of_its_kind(self, client: httpx.Client, root: Path) -> None:
        build.tiny(root / "good")
        answer = client.post("/v1/models", json={"name": "a", "source": {"type": "folder", "path": "good"}})
        assert answer.status_code == 202, answer.text
        body = answer.json()
        assert (body["kind"], body["state"], body["progress"]["unit"]) == ("import_model", "queued", "bytes")
        assert answer.headers["location"] == f"/v1/jobs/{body['id']}"

    def test_the_same_key_is_the_same_job(self, client: httpx.Client, root: Path) -> None:
        build.tiny(root / "keyed")
        wish = {"name": "a", "source": {"type": "folder", "path": "keyed"}}
        answers = [client.post("/v1/models", json=wish, headers={"idempotency-key": "k"}) for _ in range(2)]
        assert answers[0].json()["id"] == answers[1].json()["id"]
        assert answers[1].headers["idempotent-replayed"] == "true"

    def test_the_plan_alone(self, gateway: Gateway, client: httpx.Client, root: Path) -> None:
        build.tiny(root / "planned")
        before = rows(gateway)
        wish = {"name": "a", "source": {"type": "folder", "path": "planned"}}
        assert client.post("/v1/models?validate_only=true", json=wish).status_code == 200
        assert rows(gateway) == before

    def test_needs_its_scope(self, gateway: Gateway, tenant: UUID) -> None:
        with gateway.caller("models:read", tenant=tenant) as reader:
            answer = reader.post("/v1/models", json={"name": "a", "source": {"type": "folder", "path": "x"}})
        refused(answer, 403, "missing_scope")


def pickle(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")


def truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def disguise(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x80\x04\x95" * 100)


def lengthen(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{# #}" * 100_000)


def lengthen_config(folder: Path) -> None:
    build.change(folder / "tokenizer_config.json", chat_template="x" * 300_000)


def forget_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def mislead(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"lm_head.weight": "gone.safetensors"}})
    )


def code(folder: Path) -> None:
    build.change(folder / "config.json", auto_map={"AutoModel": "modeling.Model"})


class TestUnsafe:
    CASES = (
        (pickle, "pytorch_model.bin"),
        (truncate, "model.safetensors"),
        (disguise, "model.safetensors"),
        (lengthen, "chat_template.jinja"),
        (lengthen_config, "tokenizer_config.json"),
        (forget_tokenizer, "tokenizer.json"),
        (mislead, "model.safetensors.index.json"),
        (code, "config.json"),
    )

    @pytest.mark.parametrize(("spoil", "file"), CASES)
    def test_a_folder_is_refused_by_its_file(
        self, gateway: Gateway, client: httpx.Client, *, root: Path, spoil: Callable[[Path], None], file: str
    ) -> None:
        spoil(build.tiny(root / spoil.__name__))
        before = rows(gateway)
        answer = client.post("/v1/models", json={"name": "a", "source": {"type": "folder", "path": spoil.__name__}})
        assert file in refused(answer, 422, "unsafe_model", param=file)["detail"]
        assert rows(gateway) == before

    @pytest.mark.parametrize(("spoil", "file"), CASES[:3])
    def test_and_so_are_uploads(
        self, client: httpx.Client, tmp_path: Path, spoil: Callable[[Path], None], file: str
    ) -> None:
        spoil(folder := build.tiny(tmp_path / "mine"))
        source = {"type": "files", "files": upload(client, folder)}
        answer = client.post("/v1/models", json={"name": "a", "source": source})
        refused(answer, 422, "unsafe_model", param=file)

    def test_a_link_out_of_the_folder(self, client: httpx.Client, root: Path) -> None:
        (build.tiny(root / "linked") / "vocab.txt").symlink_to("/etc/passwd")
        answer = client.post("/v1/models", json={"name": "a", "source": {"type": "folder", "path": "linked"}})
        refused(answer, 422, "unsafe_model", param="vocab.txt")


class TestRefusals:
    @pytest.mark.parametrize("path", ["../x", "/etc", ".", "linked-out"])
    def test_folders_outside_the_root(self, client: httpx.Client, root: Path, path: str) -> None:
        link = root / "linked-out"
        if not link.is_symlink():
            link.symlink_to("/etc")
        answer = client.post("/v1/models", json={"name": "a", "source": {"type": "folder", "path": path}})
        refused(answer, 422, "source_not_allowed", param="source.path")

    @pytest.mark.parametrize("prefix", ["t/x", "imports", "imports/../t/x", "other/x", "imports-not/x"])
    def test_prefixes_that_nobody_allowed(self, client: httpx.Client, prefix: str) -> None:
        answer = client.post("/v1/models", json={"name": "a", "source": {"type": "s3", "prefix": prefix}})
        expected = "source_not_found" if prefix == "imports" else "source_not_allowed"
        refused(answer, 422, expected, param="source.prefix")

    def test_files_of_another_purpose_or_tenant(self, gateway: Gateway, client: httpx.Client, tmp_path: Path) -> None:
        folder = build.tiny(tmp_path / "mine")
        with gateway.caller() as stranger:
            foreign = upload(stranger, folder)["config.json"]
        own = upload(client, folder, purpose="user_data")["tokenizer.json"]
        source = {"type": "files", "files": {"config.json": foreign, "tokenizer.json": own}}
        body = client.post("/v1/models", json={"name": "a", "source": source}).json()
        assert {error["param"]: error["code"] for error in body["errors"]} == {
            "source.files.config.json": "not_found",
            "source.files.tokenizer.json": "wrong_purpose",
        }

    @pytest.mark.parametrize("path", ["../config.json", "/config.json", "a/../b.json", "a//b.json"])
    def test_paths_that_leave_the_folder(self, client: httpx.Client, tmp_path: Path, path: str) -> None:
        files = upload(client, build.tiny(tmp_path / "mine"))
        source = {"type": "files", "files": {**files, path: files["config.json"]}}
        answer = client.post("/v1/models", json={"name": "a", "source": source})
        refused(answer, 422, "unsafe_model", param=path)

    @pytest.mark.parametrize(
        ("wish", "param"),
        [
            ({"name": "a b"}, "name"),
            ({"name": "a/versions"}, "name"),
            ({"name": "a@1"}, "name"),
            ({"alias": "a"}, "alias"),
            ({"alias": "x y"}, "alias"),
        ],
    )
    def test_names(self, client: httpx.Client, root: Path, wish: dict[str, Any], param: str) -> None:
        if not (root / "named").exists():
            build.tiny(root / "named")
        wish = {"name": "a", "source": {"type": "folder", "path": "named"}, **wish}
        refused(client.post("/v1/models", json=wish), 400, "invalid_field", param=param)

    @pytest.mark.parametrize(
        ("source", "param"),
        [
            ({"type": "huggingface", "repo_id": "org/model", "revision": "main"}, "source.huggingface.revision"),
            ({"type": "huggingface", "repo_id": "../x", "revision": build.COMMIT}, "source.huggingface.repo_id"),
            ({"type": "ftp"}, "source"),
            ({"type": "files", "files": {}}, "source.files.files"),
        ],
    )
    def test_sources(self, client: httpx.Client, source: dict[str, Any], param: str) -> None:
        answer = client.post("/v1/models", json={"name": "a", "source": source})
        refused(answer, 422, "validation_failed", param=param)

    @pytest.mark.parametrize(
        ("wish", "param"),
        [
            ({"serving": {"engine": "llamacpp"}}, "serving.engine"),
            ({"serving": {"batching": {"policy": "best"}}}, "serving.batching.policy"),
            ({"serving": {"max_in_flight": 2}, "base_model": "tiny"}, "serving"),
        ],
    )
    def test_options(self, client: httpx.Client, root: Path, wish: dict[str, Any], param: str) -> None:
        if not (root / "served").exists():
            build.tiny(root / "served")
        answer = client.post("/v1/models", json={"name": "a", "source": {"type": "folder", "path": "served"}, **wish})
        assert (answer.status_code, answer.json()["param"]) == (422, param)

    def test_a_base_that_is_not_there(self, client: httpx.Client, root: Path) -> None:
        build.adapter(root / "baseless")
        wish = {"name": "a", "source": {"type": "folder", "path": "baseless"}, "base_model": "none"}
        refused(client.post("/v1/models", json=wish), 404, "model_not_found", param="base_model")
