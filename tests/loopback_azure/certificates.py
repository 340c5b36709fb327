"""A throw-away certificate authority, and a certificate for each host that is asked for."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey


class Authority:
    """Makes certificates on demand and keeps them; `bundle` is the file that clients trust."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._hosts: dict[str, ssl.SSLContext] = {}
        self._key, self._name = _new_key(), _name("Loopback Azure")
        self._root = _certificate(self._name, self._key, self._name, self._key, None)
        self.bundle = folder / "ca.pem"
        self.bundle.write_bytes(self._root.public_bytes(Encoding.PEM))

    def server(self) -> ssl.SSLContext:
        """A TLS server that shows each client the certificate of the host it asks for."""
        context = self._host("localhost")

        def choose(connection: ssl.SSLObject, host: str | None, _: ssl.SSLContext) -> None:
            name = host or "localhost"
            if name not in self._hosts:
                self._hosts[name] = self._host(name)
            connection.context = self._hosts[name]

        context.sni_callback = choose
        return context

    def _host(self, host: str) -> ssl.SSLContext:
        key = _new_key()
        certificate = _certificate(_name("loopback"), key, self._name, self._key, host)
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path = self._folder / f"{host}.pem"
        path.write_bytes(secret + certificate.public_bytes(Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


def _certificate(
    name: x509.Name, key: Key, issuer: x509.Name, signer: Key, host: str | None
) -> x509.Certificate:
    """A certificate for `host`, or that of the authority itself."""
    now = datetime.datetime.now(datetime.UTC)
    root = host is None
    uses = dict.fromkeys(
        ("content_commitment", "data_encipherment", "encipher_only", "decipher_only"), False
    )
    usage = x509.KeyUsage(
        digital_signature=not root,
        key_encipherment=not root,
        key_agreement=False,
        key_cert_sign=root,
        crl_sign=root,
        **uses,
    )
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    builder = (
        x509.CertificateBuilder(issuer, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=7))
        .add_extension(x509.BasicConstraints(ca=root, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(authority, False)
    )
    if host is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), False)
    return builder.sign(signer, SHA256())


def _new_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
