import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session

from services.accounts import service, tokens
from services.accounts.service import Caller, Scope
from shared.clock import utc_now
from shared.db.models import ApiKey
from shared.db.session import Database
from shared.errors import InvalidField, MissingScope, NotFound, Unauthorized
from shared.ids import new_id
from shared.settings import Environment
from tests.support.configured import configured
from tests.support.polling import wait_until
from tests.support.stores import RunningStores


@pytest.fixture(autouse=True)
def here(stores: RunningStores) -> Iterator[None]:
    with configured(stores.settings()):
        yield


@pytest.fixture
def admin(database: Database) -> Caller:
    token = service.new_token()
    with database.transaction() as session:
        service.bootstrap(session, token)
    return service.authenticate(database, token)


def is_refused(database: Database, token: str) -> bool:
    try:
        service.authenticate(database, token)
    except Unauthorized:
        return True
    return False


ANYBODY = Caller(new_id(), "t", "k", frozenset({"*"}))


def make(database: Database, caller: Caller, *scopes: str, **options) -> service.NewKey:
    with database.transaction() as session:
        return service.create_key(session, caller, name="test", scopes=scopes or ["jobs:read"], **options)


class TestTokens:
    def test_form(self):
        token = tokens.new(Environment.PRODUCTION)
        parts = token.text.split("_")
        assert [len(part) for part in parts[2:]] == [12, 43, 6]
        assert parts[:2] == ["modelyard", "live"]
        assert tokens.parse(token.text) == token

    def test_a_typo_is_seen_without_asking_anybody(self):
        text = tokens.new(Environment.TEST).text
        for position in (15, 30, len(text) - 1):
            swapped = "b" if text[position] == "a" else "a"
            assert tokens.parse(text[:position] + swapped + text[position + 1 :]) is None

    @pytest.mark.parametrize("text", ["", "Bearer x", "modelyard_live_x_y_z", "modelyard_live_" + "é" * 12])
    def test_what_is_no_key(self, text):
        assert tokens.parse(text) is None

    def test_secrets_are_not_shown(self):
        token = tokens.new(Environment.TEST)
        assert token.secret not in repr(token)


class TestBootstrap:
    def test_twice_is_once(self, database: Database):
        token = service.new_token()
        with database.transaction() as session:
            first = service.bootstrap(session, token)
        with database.transaction() as session:
            assert service.bootstrap(session, token) == first
        caller = service.authenticate(database, token)
        assert (caller.tenant, caller.tenant_id) == ("default", first)
        assert caller.may(Scope.KEYS)

    def test_what_is_no_key_is_refused(self):
        with pytest.raises(InvalidField):
            service.bootstrap(Session(), "secret")


class TestAuthenticate:
    def test_the_row_holds_no_secret(self, database: Database, admin: Caller):
        made = make(database, admin)
        secret = made.token.split("_")[3]
        with database.transaction() as session:
            row = session.get_one(ApiKey, made.key.id)
            assert secret.encode() not in row.secret_hmac
            assert secret not in str(row.__dict__)

    def test_unknown_mistyped_and_wrong_keys_answer_alike(self, database: Database, admin: Caller):
        genuine = make(database, admin).token
        stranger = tokens.new(Environment.TEST)
        forged = f"modelyard_test_{genuine.split('_')[2]}_{stranger.secret}"
        forged += "_" + tokens._crc(forged)
        messages = set()
        for text in (stranger.text, genuine[:-1] + "!", forged, "", "x" * 10_000):
            with pytest.raises(Unauthorized) as raised:
                service.authenticate(database, text)
            messages.add(raised.value.message)
        assert len(messages) == 1

    def test_a_known_key_costs_no_query(self, database: Database, admin: Caller):
        token = make(database, admin).token
        service.authenticate(database, token)
        statements: list[str] = []

        def note(*args) -> None:
            statements.append(args[2])

        event.listen(database.engine, "before_cursor_execute", note)
        began = time.perf_counter()
        for _ in range(1000):
            service.authenticate(database, token)
        assert (time.perf_counter() - began) / 1000 < 0.001
        assert not statements

    def test_revoked_is_revoked_at_once_here(self, database: Database, admin: Caller):
        made = make(database, admin)
        service.authenticate(database, made.token)
        with database.transaction() as session:
            first = service.revoke_key(session, admin.tenant_id, made.key.id).revoked_at
        with pytest.raises(Unauthorized):
            service.authenticate(database, made.token)
        with database.transaction() as session:
            assert service.revoke_key(session, admin.tenant_id, made.key.id).revoked_at == first

    def test_revoked_elsewhere_ends_within_the_time_to_live(
        self, database: Database, admin: Caller, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(service, "KNOWN_S", 0.2)
        made = make(database, admin)
        service.authenticate(database, made.token)
        elsewhere = Database(database.url)
        with elsewhere.transaction() as session:
            session.get_one(ApiKey, made.key.id).revoked_at = utc_now()
        elsewhere.close()
        service.authenticate(database, made.token)
        wait_until(lambda: is_refused(database, made.token))

    def test_an_expired_key_is_none(self, database: Database, admin: Caller):
        made = make(database, admin, expires_at=utc_now() + timedelta(seconds=0.3))
        service.authenticate(database, made.token)
        wait_until(lambda: is_refused(database, made.token))

    def test_use_is_remembered_to_the_minute(self, database: Database, admin: Caller):
        made = make(database, admin)
        assert made.key.last_used_at is None
        service.authenticate(database, made.token)
        with database.transaction() as session:
            assert session.get_one(ApiKey, made.key.id).last_used_at is not None

    def test_memory_is_bounded(self, database: Database, admin: Caller, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(service, "KNOWN_KEYS", 3)
        for _ in range(5):
            service.authenticate(database, make(database, admin).token)
        assert len(service._KNOWN[database]._callers) == 3


class TestScopes:
    @pytest.mark.parametrize(
        ("scopes", "scope", "may"),
        [
            ({"jobs:read"}, Scope.JOBS_READ, True),
            ({"jobs:read"}, Scope.JOBS_WRITE, False),
            ({"jobs:*"}, Scope.JOBS_CANCEL, True),
            ({"jobs:*"}, Scope.FILES_READ, False),
            ({"*"}, Scope.KEYS, True),
            (set(), Scope.JOBS_READ, False),
        ],
    )
    def test_may(self, scopes, scope, may):
        caller = Caller(new_id(), "t", "k", frozenset(scopes))
        assert caller.may(scope) is may
        if not may:
            with pytest.raises(MissingScope, match=scope):
                caller.need(scope)

    def test_nobody_gives_more_than_they_have(self, database: Database, admin: Caller):
        weak = service.authenticate(database, make(database, admin, "jobs:read", "admin:keys").token)
        assert make(database, weak, "jobs:read").key.scopes == ["jobs:read"]
        for scope in ("jobs:write", "jobs:*", "*"):
            with pytest.raises(MissingScope):
                make(database, weak, scope)

    @pytest.mark.parametrize("scopes", [["jobs:fly"], ["jobs"], [""], []])
    def test_unknown_scopes_are_named(self, scopes):
        with pytest.raises(InvalidField) as raised:
            service.create_key(Session(), ANYBODY, name="n", scopes=scopes)
        assert raised.value.param == "scopes"

    @pytest.mark.parametrize(
        ("param", "options"),
        [
            ("name", {"name": ""}),
            ("name", {"name": "x" * 65}),
            ("name", {"name": "a\x00b"}),
            ("expires_at", {"expires_at": utc_now() - timedelta(seconds=1)}),
            ("expires_at", {"expires_at": (utc_now() + timedelta(days=1)).replace(tzinfo=None)}),
        ],
    )
    def test_other_bad_fields_are_named(self, param, options):
        with pytest.raises(InvalidField) as raised:
            service.create_key(Session(), ANYBODY, **{"name": "n", "scopes": ["jobs:read"], **options})
        assert raised.value.param == param


class TestTenants:
    def test_another_tenants_keys_are_not_there(self, database: Database, admin: Caller):
        made = make(database, admin)
        stranger = new_id()
        with database.transaction() as session:
            assert service.list_keys(session, admin.tenant_id)[0].id == made.key.id
            assert not service.list_keys(session, stranger)
            with pytest.raises(NotFound):
                service.get_key(session, stranger, made.key.id)
            with pytest.raises(NotFound):
                service.revoke_key(session, stranger, made.key.id)
        assert service.authenticate(database, made.token).key_id == made.key.key_id

    def test_pages(self, database: Database, admin: Caller):
        ids = [make(database, admin).key.id for _ in range(3)]
        with database.transaction() as session:
            first = service.list_keys(session, admin.tenant_id, limit=2)
            rest = service.list_keys(session, admin.tenant_id, after=first[-1].id)
        assert [key.id for key in first] == ids[:0:-1]
        assert [key.name for key in rest] == ["test", "admin"]
