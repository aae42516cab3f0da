"""What Acme adds to its sidecars. Names only: the classes are imported when a configuration first uses them."""

from __future__ import annotations

from sidecar.extension import Extension

api_key = Extension(
    kind="authenticator",
    name="acme.api-key",
    target="acme_mesh.api_key.ApiKey",
    summary="names the caller by the API key it shows",
)
redact_cards = Extension(
    kind="filter",
    name="acme.redact-cards",
    target="acme_mesh.redact.RedactCards",
    summary="masks card numbers in answers while they stream",
)
