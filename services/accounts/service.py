"""Who calls, and what they may do."""

import hashlib
import hmac
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID
from weakref import WeakKeyDictionary

from sqlalchemy.orm import Session

from services.accounts import repository, tokens
from services.accounts.tokens import Token
from shared.clock import monotonic, utc_now
from shared.crypto import keyring
from shared.db.models import ApiKey
from shared.db.session import Database
from shared.errors import InvalidField, MissingScope, NotFound, Unauthorized
from shared.ids import new_id
from shared.settings import settings

DEFAULT_TENANT = "default"
KNOWN_S = 30.0  # a revoked key works no longer than this
KNOWN_KEYS = 4096
NAME_CHARACTERS = 64
ALL = "*"


class Scope(StrEnum):
    """What a key may do. `jobs:*` stands for every scope of jobs, `*` for all."""

    JOBS_READ = "jobs:read"  #: see jobs, events, logs, artifacts, classes and workers
    JOBS_WRITE = "jobs:write"  #: submit, retry, pause and resume
    JOBS_CANCEL = "jobs:cancel"  #: stop jobs
    FILES_READ = "files:read"  #: list and download uploads
    FILES_WRITE = "files:write"  #: upload and delete
    INFERENCE = "inference:call"  #: chat, completions and embeddings
    MODELS_READ = "models:read"  #: list models
    MODELS_WRITE = "models:write"  #: register and delete models
    WEBHOOKS_READ = "webhooks:read"  #: see deliveries
    WEBHOOKS_WRITE = "webhooks:write"  #: manage receivers, deliver again
    USAGE_READ = "usage:read"  #: see what was consumed
    KEYS = "admin:keys"  #: create, list and revoke keys


SCOPES = frozenset(Scope) | {f"{scope.partition(':')[0]}:*" for scope in Scope} | {ALL}


@dataclass(frozen=True)
class Caller:
    """Whoever holds the key of this request."""

    tenant_id: UUID
    tenant: str
    key_id: str
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        """Whether the key has `scope`, by name or by `*`."""
        return not self.scopes.isdisjoint({scope, f"{scope.partition(':')[0]}:*", ALL})

    def need(self, scope: Scope) -> None:
        """Go on only with `scope`.

        Raises:
            MissingScope: the key lacks it.
        """
        if not self.may(scope):
            raise MissingScope(f"This key lacks the scope {scope}.")


@dataclass(frozen=True)
class NewKey:
    """A key's row, and its text, which nobody can show again."""

    key: ApiKey
    token: str


class _Known:
    """Callers seen within `KNOWN_S`, by the digest of their key's text; least recently used ones are forgotten."""

    def __init__(self) -> None:
        self._callers: OrderedDict[bytes, tuple[Caller, float]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, digest: bytes) -> Caller | None:
        with self._lock:
            caller, until = self._callers.get(digest, (None, 0.0))
            if caller is None or until < monotonic():
                self._callers.pop(digest, None)
                return None
            self._callers.move_to_end(digest)
            return caller

    def put(self, digest: bytes, caller: Caller, seconds: float) -> None:
        with self._lock:
            self._callers[digest] = (caller, monotonic() + seconds)
            while len(self._callers) > KNOWN_KEYS:
                self._callers.popitem(last=False)

    def forget(self, key_id: str) -> None:
        with self._lock:
            for digest in [d for d, (caller, _) in self._callers.items() if caller.key_id == key_id]:
                del self._callers[digest]


_KNOWN: WeakKeyDictionary[Database, _Known] = WeakKeyDictionary()


def authenticate(database: Database, token: str) -> Caller:
    """Who holds the key `token`. No query for a key seen within 30 s in this process.

    Raises:
        Unauthorized: no such key, or one that is mistyped, revoked or expired; nobody learns which.
        DatabaseUnavailable: the key is not known here, and the database cannot be asked.
    """
    caller = recall(database, token)
    if caller is None:
        caller, seconds = _ask(database, tokens.parse(token))
        _KNOWN[database].put(_digest(token), caller, seconds)
    return caller


def recall(database: Database, token: str) -> Caller | None:
    """Who holds the key `token`, if this process has seen it within 30 s. Waits for nobody."""
    known = _KNOWN.get(database)
    if known is None:
        known = _KNOWN.setdefault(database, _Known())
    return known.get(_digest(token))


def create_key(
    session: Session, caller: Caller, *, name: str, scopes: Iterable[str], expires_at: datetime | None = None
) -> NewKey:
    """Make a key of the caller's tenant, with no more scopes than the caller has.

    Raises:
        InvalidField: the name is empty or too long, a scope is unknown, none is given, or the expiry is past.
        MissingScope: the caller lacks a scope that the key would have.
    """
    wanted = sorted(set(scopes))
    _check(name, wanted, expires_at)
    for scope in wanted:
        if not caller.may(scope):
            raise MissingScope(f"This key lacks the scope {scope}, so it cannot give it.", param="scopes")
    token = tokens.new(settings().environment)
    row = _row(token, caller.tenant_id, name=name, scopes=wanted, expires_at=expires_at)
    return NewKey(repository.add(session, row), token.text)


def list_keys(session: Session, tenant_id: UUID, *, after: UUID | None = None, limit: int = 100) -> Sequence[ApiKey]:
    """A tenant's keys, newest first, without their secrets."""
    return repository.page(session, tenant_id, after=after, limit=limit)


def get_key(session: Session, tenant_id: UUID, id: UUID) -> ApiKey:
    """One of a tenant's keys.

    Raises:
        NotFound: there is none of that id.
    """
    key = repository.get(session, tenant_id, id)
    if key is None:
        raise NotFound("There is no such key.", param="id")
    return key


def revoke_key(session: Session, tenant_id: UUID, id: UUID) -> ApiKey:
    """End a key's life: at once in this process, within 30 s in others. A second time changes nothing.

    Raises:
        NotFound: there is none of that id.
    """
    key = repository.revoke(session, tenant_id, id)
    if key is None:
        raise NotFound("There is no such key.", param="id")
    for known in list(_KNOWN.values()):
        known.forget(key.key_id)
    return key


def bootstrap(session: Session, token: str) -> UUID:
    """Make the tenant `default`, with `token` as an admin key of it; what is there already stays. The tenant's id.

    Whoever calls writes the key's file first: then a crash in between leaves nothing that cannot be done
    again.

    Raises:
        InvalidField: `token` is not an API key.
    """
    parsed = tokens.parse(token)
    if parsed is None:
        raise InvalidField("That is not an API key of ours.", param="token")
    tenant = repository.ensure_tenant(session, DEFAULT_TENANT)
    repository.ensure(session, _row(parsed, tenant.id, name="admin", scopes=[ALL], expires_at=None))
    return tenant.id


def new_token() -> str:
    """The text of a fresh key for `bootstrap`."""
    return tokens.new(settings().environment).text


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()


def _ask(database: Database, token: Token | None) -> tuple[Caller, float]:
    if token is None:
        raise Unauthorized
    given = keyring().mac(token.secret.encode())
    with database.transaction() as session:
        found = repository.find_live(session, token.key_id)
        # An unknown key id costs the same comparison as a known one.
        genuine = hmac.compare_digest(given, found[0].secret_hmac if found else bytes(len(given)))
        if not genuine or found is None:
            raise Unauthorized
        key, tenant = found
        repository.mark_used(session, key)
    seconds = KNOWN_S
    if key.expires_at is not None:
        seconds = min(seconds, (key.expires_at - utc_now()).total_seconds())
    return Caller(tenant.id, tenant.name, key.key_id, frozenset(key.scopes)), seconds


def _row(token: Token, tenant_id: UUID, *, name: str, scopes: list[str], expires_at: datetime | None) -> ApiKey:
    return ApiKey(
        id=new_id(),
        tenant_id=tenant_id,
        key_id=token.key_id,
        secret_hmac=keyring().mac(token.secret.encode()),
        name=name,
        scopes=scopes,
        expires_at=expires_at,
    )


def _check(name: str, scopes: Sequence[str], expires_at: datetime | None) -> None:
    if not 0 < len(name) <= NAME_CHARACTERS or "\x00" in name:
        raise InvalidField(f"A name of 1–{NAME_CHARACTERS} characters is needed.", param="name")
    unknown = sorted(set(scopes) - SCOPES)
    if unknown or not scopes:
        detail = f"Unknown: {', '.join(unknown)}. " if unknown else ""
        raise InvalidField(f"{detail}Scopes are {', '.join(sorted(SCOPES))}.", param="scopes")
    if expires_at is not None and (expires_at.tzinfo is None or expires_at <= utc_now()):
        raise InvalidField("expires_at must be in the future, with a UTC offset.", param="expires_at")
