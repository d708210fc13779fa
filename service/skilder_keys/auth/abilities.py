"""The ability that the methods of each service require of their callers."""

from typing import TYPE_CHECKING

from skilder_keys.domain.access import Ability

if TYPE_CHECKING:
    from collections.abc import Mapping

ABILITIES: "Mapping[str, Ability]" = {
    "KeyService": Ability.KEYS,
    "CatalogService": Ability.CATALOG,
    "AuthorizationService": Ability.AUTHORIZE,
}
"""The ability by the name of the service. A service without an entry cannot be served."""
