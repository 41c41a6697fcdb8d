import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from services.catalog import service
from services.catalog.files import materialise, remove
from services.catalog.register import stage, write
from services.catalog.tensors import UnsafeModel
from services.catalog.tree import FolderTree
from shared.db.models import Model, Tenant
from shared.db.session import Database
from shared.errors import InvalidField, StoreUnavailable, UnknownModel
from shared.ids import new_id
from shared.manifest import Manifest
from shared.storage import BlobCorrupt, Store, key_of
from tests.support.stores import RunningStores
from tests.support.webhooks import closed_port

TINY = Path("infra/models/yard-tiny")


@pytest.fixture
def tenant(database: Database) -> UUID:
    with database.transaction() as session:
        row = Tenant(id=new_id(), name="catalog")
        session.add(row)
    return row.id


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "source"))


@pytest.fixture
def models(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "models"
    for path in (tmp_path / "models").rglob("*"):
        if path.is_dir():
            path.chmod(0o755)


class TestRegister:
    @pytest.fixture
    def register(self, database: Database, store: Store, tenant: UUID, folder: Path) -> Callable[[str], Model]:
        return lambda name: service.register_folder(database, store, tenant, name=name, folder=folder)

    def test_a_folder_becomes_a_model(self, register, store: Store, tenant: UUID, folder: Path):
        model = register("yard-tiny")
        config = json.loads((folder / "config.json").read_text())
        assert (model.name, model.version, model.context_length) == ("yard-tiny", 1, config["max_position_embeddings"])
        assert model.dtype == "bf16"
        assert 1_000_000 < model.parameters < 4_000_000
        assert model.config == config
        manifest = Manifest.of_json(model.manifest)
        assert (manifest.digest, manifest.bytes) == (model.digest, model.bytes)
        assert all(store.size(tenant, entry.sha256) == entry.bytes for entry in manifest)

    def test_same_content_is_the_same_version_other_content_the_next(
        self, register, session: Session, tenant: UUID, folder: Path
    ):
        first, again = register("m"), register("m")
        (folder / "README.md").write_text("# changed")
        second = register("m")
        assert (again.id, second.version) == (first.id, 2)
        assert service.get(session, tenant, "m").id == second.id
        assert [model.version for model in service.page(session, tenant)] == [2]
        assert service.by_id(session, tenant, first.id).digest == first.digest

    def test_several_at_once_are_one(self, register, session: Session, tenant: UUID):
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(register, ["m"] * 4))
        assert {model.id for model in found} == {service.get(session, tenant, "m").id}

    def test_another_tenants_model_is_not_there(self, register, session: Session):
        model, stranger = register("m"), new_id()
        with pytest.raises(UnknownModel) as raised:
            service.get(session, stranger, "m")
        assert raised.value.param == "spec.model"
        with pytest.raises(UnknownModel):
            service.by_id(session, stranger, model.id)
        assert not service.page(session, stranger)

    def test_what_is_staged_is_no_model_until_it_is_written(
        self, database: Database, store: Store, *, session: Session, tenant: UUID, folder: Path
    ):
        (folder / "recipe.yaml").write_text("quantization_stage: {}")
        ready = stage(store, tenant, FolderTree(folder, store, tenant), wish=service.Wish("m", alias="prod"))
        assert all(store.size(tenant, entry["sha256"]) == entry["bytes"] for entry in ready.values["manifest"])
        assert not service.page(session, tenant)
        write(session, ready)
        session.rollback()
        with database.transaction() as kept:
            first = write(kept, ready)
        with database.transaction() as again:
            assert write(again, ready).id == first.id
        assert (first.version, first.digest) == (1, ready.digest)
        assert service.get(session, tenant, "prod").id == first.id

    def test_nothing_is_registered_when_the_store_is_away(
        self, database: Database, stores: RunningStores, tenant: UUID, folder: Path
    ):
        away = Store.of(stores.settings(s3_endpoint=closed_port().split("/")[2]))
        with pytest.raises(StoreUnavailable):
            service.register_folder(database, away, tenant, name="m", folder=folder)
        with database.transaction() as session:
            assert not service.page(session, tenant)


class TestRefusals:
    @pytest.fixture
    def register(self, stores: RunningStores, folder: Path):
        nowhere = Database("postgresql+psycopg://nobody@127.0.0.1:1/none")
        store = Store.of(stores.settings())
        yield lambda name="m": service.register_folder(nowhere, store, new_id(), name=name, folder=folder)
        nowhere.close()

    @pytest.mark.parametrize("name", ["", "a b", "../x", "a/b/c", "/a", "a/", "é", "x" * 97, "a\x00"])
    def test_names(self, register, name: str):
        with pytest.raises(InvalidField) as raised:
            register(name)
        assert raised.value.param == "name"

    @pytest.mark.parametrize(
        "name",
        [
            "pytorch_model.bin",
            "model.pt",
            "x.pkl",
            "modeling.py",
            "x.so",
            "x.zip",
            "x.gguf",
            "x.h5",
            "x.yaml",
            "nosuffix",
        ],
    )
    def test_files_that_run(self, register, folder: Path, name: str):
        (folder / name).write_bytes(b"x")
        with pytest.raises(UnsafeModel, match=name):
            register()

    def test_a_pickle_under_a_good_name(self, register, folder: Path):
        (folder / "model-2.safetensors").write_bytes(b"\x80\x04\x95" * 10)
        with pytest.raises(UnsafeModel, match="header"):
            register()

    def test_links(self, register, folder: Path):
        (folder / "vocab.txt").symlink_to("/etc/passwd")
        with pytest.raises(UnsafeModel, match="link"):
            register()

    def test_linked_folders(self, register, folder: Path):
        (folder / "etc").symlink_to("/etc")
        with pytest.raises(UnsafeModel, match="link"):
            register()

    @pytest.mark.parametrize(
        ("file", "change"),
        [
            ("config.json", {"auto_map": {"AutoModel": "evil.Model"}}),
            ("config.json", {"text_config": {"auto_map": {"AutoModel": "evil--repo.Model"}}}),
            ("config.json", {"_attn_implementation_internal": "evil/kernel"}),
            ("config.json", {"attn_implementation": "evil/kernel:f"}),
            ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.T", None]}}),
            ("tokenizer_config.json", {"chat_template": [{"name": "../../x", "template": ""}]}),
        ],
    )
    def test_configurations_that_ask_for_code(self, register, folder: Path, file: str, change: dict[str, object]):
        config = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**config, **change}))
        with pytest.raises(UnsafeModel, match=file):
            register()

    @pytest.mark.parametrize("content", ["", "[]", "nonsense", "{}", '{"max_position_embeddings": "many"}'])
    def test_configurations_that_are_none(self, register, folder: Path, content: str):
        (folder / "config.json").write_text(content)
        with pytest.raises(UnsafeModel, match=r"config\.json"):
            register()

    def test_no_weights(self, register, folder: Path):
        (folder / "model.safetensors").unlink()
        with pytest.raises(UnsafeModel, match="safetensors"):
            register()


class TestMaterialise:
    @pytest.fixture
    def manifest(self, store: Store, folder: Path) -> tuple[UUID, Manifest]:
        tenant = new_id()
        manifest = Manifest.of_files(folder, [path for path in folder.rglob("*") if path.is_file()])
        for entry in manifest:
            store.put_file(tenant, folder / entry.path)
        return tenant, manifest

    def test_files_are_there_read_only(self, store: Store, manifest, models: Path):
        tenant, wanted = manifest
        folder = materialise(store, tenant, wanted, models)
        assert folder == models / wanted.digest
        assert wanted.differences(folder) == []
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o444}
        assert materialise(store, tenant, wanted, models) == folder

    def test_leftovers_of_a_killed_one_are_swept(self, store: Store, manifest, models: Path):
        tenant, wanted = manifest
        part = models / f"{wanted.digest}.part"
        part.mkdir(parents=True)
        (part / "half").write_text("x")
        part.chmod(0o555)
        assert wanted.differences(materialise(store, tenant, wanted, models)) == []
        assert not part.exists()

    def test_a_bad_blob_leaves_no_folder(self, store: Store, stores: RunningStores, manifest, models: Path):
        tenant, wanted = manifest
        entry = max(wanted, key=lambda each: each.bytes)
        kept = stores.stores.place.store / stores.s3_bucket / key_of(tenant, entry.sha256)
        kept.write_bytes(b"\0" * entry.bytes)
        with pytest.raises(BlobCorrupt):
            materialise(store, tenant, wanted, models)
        assert [path.suffix for path in models.iterdir()] == [".lock"]

    def test_two_processes_fetch_once(self, stores: RunningStores, store: Store, manifest, models: Path):
        tenant, wanted = manifest
        context = multiprocessing.get_context("spawn")
        arguments = (stores.settings(), tenant, wanted, models)
        processes = [context.Process(target=_materialise, args=arguments) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0, 0]
        assert wanted.differences(models / wanted.digest) == []

    def test_remove(self, store: Store, manifest, models: Path):
        tenant, wanted = manifest
        folder = materialise(store, tenant, wanted, models)
        remove(folder)
        remove(folder)
        assert not folder.exists()


def _materialise(settings, tenant, manifest, models) -> None:
    folder = materialise(Store.of(settings), tenant, manifest, models)
    os._exit(0 if not manifest.differences(folder) else 1)
