"""Domain packs that are installed, as they are listed and as they are."""

from typing import Literal, Self

from pydantic import Field

from gateway.schemas.common import Out
from shared.contracts.documents import Pack, Rule, Term


class DomainPackOut(Out):
    """A pack in a list."""

    id: str = Field(description="its name: what `pack` takes")
    object: Literal["domain_pack"] = "domain_pack"
    description: str
    terms: int = Field(description="how many")
    rules: int = Field(description="how many")

    @classmethod
    def of(cls, pack: Pack) -> Self:
        """The resource of a pack."""
        return cls(id=pack.name, description=pack.description, terms=len(pack.terms), rules=len(pack.rules))


class DomainPackDetail(Out):
    """A pack with everything."""

    id: str = Field(description="its name")
    object: Literal["domain_pack"] = "domain_pack"
    description: str
    terms: list[Term]
    rules: list[Rule]

    @classmethod
    def of(cls, pack: Pack) -> Self:
        """The resource of a pack."""
        return cls(id=pack.name, description=pack.description, terms=pack.terms, rules=pack.rules)
