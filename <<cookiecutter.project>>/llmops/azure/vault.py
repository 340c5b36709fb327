"""Secrets in a Key Vault: written only where they differ, and named by their versions.

A reference with a version makes a web app take a new value at once, and lets the way back to the
previous image take its secrets along.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmops.azure.manager import Call, manager
from llmops.errors import UserError

API = "7.4"
AUDIENCE = "https://vault.azure.net"


@dataclass(frozen=True)
class Vault:
    """A vault by its name and its address; the names of its secrets begin with `prefix`."""

    name: str
    address: str
    prefix: str

    def find(self, values: Mapping[str, str]) -> dict[str, str]:
        """References to those secrets whose newest version has its value, by variable.

        Raises:
            UserError: who runs the task may not read them.
        """
        with manager(self.address, AUDIENCE) as call:
            return {n: self._ask(call, "GET", n, value) for n, value in values.items()}

    def write(self, values: Mapping[str, str]) -> dict[str, str]:
        """References to new versions with these values; raises UserError where that is refused."""
        with manager(self.address, AUDIENCE) as call:
            return {n: self._ask(call, "PUT", n, value) for n, value in values.items()}

    def _ask(self, call: Call, method: str, variable: str, value: str) -> str:
        from azure.core.exceptions import HttpResponseError

        name = f"{self.prefix}-{variable}".replace("_", "-")[:127]
        body = {"value": value} if method == "PUT" else None
        try:
            found = call(method, f"/secrets/{name}", API, body)
        except HttpResponseError as error:
            if error.status_code == 404 and method == "GET":
                return ""
            # Azure's own text is not shown: it could repeat the value.
            raise UserError(
                f"KEY_VAULT_NAME: '{self.name}': {method} of secret '{name}' was refused "
                f"({error.status_code}). Who runs this task needs the role 'Key Vault Secrets "
                "Officer' on the vault, or an access policy with get and set, and a way through "
                "its firewall."
            ) from error
        return f"@Microsoft.KeyVault(SecretUri={found['id']})" if found["value"] == value else ""
