"""A keyring for prompt flow's store of connections, which lives in a temporary folder."""

import base64

from keyring.backend import KeyringBackend


class OneKey(KeyringBackend):
    """Always the same key: there is nothing to keep safe."""

    priority = 1.0

    def get_password(self, service: str, username: str) -> str:
        return base64.urlsafe_b64encode(b"the key of a temporary store.. .").decode()

    def set_password(self, service: str, username: str, password: str) -> None:
        raise NotImplementedError
