"""`modelyard bootstrap`: what a fresh installation needs before its first request. Safe to run at every start."""

from importlib import resources
from pathlib import Path
from uuid import UUID

import typer

from services.accounts import service as accounts
from services.blobs.service import keeper
from services.catalog import service as catalog
from services.cli.output import note
from shared.db.migrate import upgrade
from shared.db.session import Database
from shared.embedded.layout import layout, write_private
from shared.settings import Settings, settings
from shared.storage import Store

app = typer.Typer(add_completion=False)


@app.command()
def bootstrap() -> None:
    """Migrate, then make the first tenant and key and register the packaged models."""
    configured = settings()
    url = configured.database_url.get_secret_value()
    upgrade(url)
    database = Database(url, pool=1, name="modelyard-bootstrap")
    try:
        tenant_id = _first_key(database, configured.data_dir)
        _packaged_models(database, configured, tenant_id)
    finally:
        database.close()


def _first_key(database: Database, folder: Path) -> UUID:
    """The first tenant's id. Its admin key lies in `folder`/admin.key: written first, so a crash loses no key."""
    file = layout(folder).admin_key_file
    if not file.exists():
        write_private(file, accounts.new_token() + "\n")
        note(f"the admin key is in {file}")
    with database.transaction() as session:
        return accounts.bootstrap(session, file.read_text().strip())


def _packaged_models(database: Database, configured: Settings, tenant_id: UUID) -> None:
    """Register every folder of infra/models that holds a model, under the folder's name."""
    store = Store.of(configured, keep=keeper(database, grace_s=configured.blob_grace_s))
    store.probe()
    with resources.as_file(resources.files("infra.models")) as folder:
        for config in sorted(folder.glob("*/config.json")):
            name = config.parent.name
            model = catalog.register_folder(database, store, tenant_id, name=name, folder=config.parent)
            note(f"model {name} {model.digest[:12]}")
