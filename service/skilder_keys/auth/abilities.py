"""The ability that the methods of each service need their caller to have."""

from typing import TYPE_CHECKING

from skilder_keys.domain.access import Ability

if TYPE_CHECKING:
    from collections.abc import Mapping

ABILITIES: "Mapping[str, Ability]" = {
    "KeyService": Ability.KEYS,
    "CatalogService": Ability.CATALOG,
    "AuthorizationService": Ability.AUTHORIZE,
}
"""By the name of the service. A service that is not here cannot be served."""
