"""``site.yaml`` and ``policies.yaml``: read, checked and explained; pydantic ends here."""

from broker.app.settings.linting import Lint, lint
from broker.app.settings.loading import load_policies, load_site, spec_changed
from broker.app.settings.reference import policies_json_schema, site_json_schema
from broker.app.settings.secrets import Secrets, load_secrets, site_secret
from broker.app.settings.site import SiteSettings

__all__ = [
    "Lint",
    "Secrets",
    "SiteSettings",
    "lint",
    "load_policies",
    "load_secrets",
    "load_site",
    "policies_json_schema",
    "site_json_schema",
    "site_secret",
    "spec_changed",
]
