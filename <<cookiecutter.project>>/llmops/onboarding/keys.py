"""Find keys in files by the formats that they are known to have; what is found is never quoted."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Key:
    """What kind of key it looks like, with its article, and its line (0 in a binary file)."""

    kind: str
    line: int


# Each begins with fixed letters, which are quick to find. The group `value` is looked at again,
# as it may be a placeholder.
_FORMATS: tuple[tuple[str, bytes], ...] = (
    (
        "a private key",
        rb"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"
        rb"(?:\\+[nr]|[\s\"',+]|[A-Za-z-]+: [^\n]*\n)*(?P<value>[A-Za-z0-9+/=]{20,})",
    ),
    ("a PuTTY private key", rb"PuTTY-User-Key-File-\d"),
    ("an Azure OpenAI or Azure AI key", rb"JQQJ9[9D](?<=\w{58})(?P<value>[A-Za-z0-9]{22,26})"),
    ("an Azure AI Search key", rb"AzSe[A-D](?<=[A-Za-z0-9]{47})[A-Za-z0-9]{5}"),
    ("an Azure DevOps token", rb"AZDO(?<=[A-Za-z0-9]{80})[A-Za-z0-9]{4}"),
    ("an Azure client secret", rb"[78]Q~(?<=[\w~.-]{6})(?P<value>[A-Za-z0-9_~.-]{31,34})"),
    (
        "an Azure connection string",
        rb"(?:AccountKey|SharedAccessKey|accesskey)=(?P<value>[A-Za-z0-9+/]{40,}={0,2})",
    ),
    (
        "an Azure shared access signature",
        rb"sig=(?<![A-Za-z]sig=)(?P<value>(?:[A-Za-z0-9+/_-]|%[0-9A-Fa-f]{2}){40,})",
    ),
    (
        "an address with a password",
        rb"://[^\s:/@\"'<>]{1,80}:(?P<value>[^\s:/@\"'<>]{4,200})"
        rb"@(?!localhost|127\.|host\b|[\w.-]*example\b)[\w.-]+",
    ),
    (
        "an OpenAI key",
        rb"sk-(?<!\wsk-)(?P<value>(?:proj|svcacct|admin)-[A-Za-z0-9_-]{20,}|[A-Za-z0-9]{32,})",
    ),
    ("an Anthropic key", rb"sk-ant-(?P<value>[A-Za-z0-9_-]{20,})"),
    ("a GitHub token", rb"gh[pousr]_(?P<value>[A-Za-z0-9]{36,})"),
    ("a GitHub token", rb"github_pat_(?P<value>[A-Za-z0-9_]{22,})"),
    ("a GitLab token", rb"glpat-(?P<value>[A-Za-z0-9_-]{20,})"),
    ("an AWS key", rb"A(?:KIA|SIA)(?<!\w{5})(?P<value>[0-9A-Z]{16})(?!\w)"),
    ("a Google key", rb"AIza(?P<value>[A-Za-z0-9_-]{35})"),
    ("a Google client secret", rb"GOCSPX-(?P<value>[A-Za-z0-9_-]{28})"),
    ("a Slack token", rb"xox[abeoprs]-(?P<value>[A-Za-z0-9-]{10,})"),
    ("a Slack webhook", rb"hooks\.slack\.com/services/T\w+/B\w+/(?P<value>\w{20,})"),
    (
        "a signed token (JWT)",
        rb"eyJ(?<!\weyJ)[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.(?P<value>[A-Za-z0-9_-]{10,})",
    ),
    ("a Hugging Face token", rb"hf_(?<!\whf_)(?P<value>[A-Za-z0-9]{30,})"),
    ("a Databricks token", rb"dapi(?P<value>[0-9a-f]{32})"),
    ("a Stripe key", rb"[rs]k_live_(?P<value>[A-Za-z0-9]{20,})"),
    ("a SendGrid key", rb"SG\.(?P<value>[A-Za-z0-9_-]{22})\.[A-Za-z0-9_-]{43}"),
    ("an npm token", rb"npm_(?P<value>[A-Za-z0-9]{36})"),
    ("a PyPI token", rb"pypi-AgE(?P<value>[A-Za-z0-9_-]{50,})"),
    ("a bearer token", rb"(?:B|b)earer (?P<value>[A-Za-z0-9+/_~.=-]{20,})"),
)
# What is a key only because of what stands before it in the line.
_NAMED: tuple[tuple[str, bytes, bytes], ...] = (
    (
        "a connection string with a password",
        rb"(?i:server|data source|host|user id|uid|username)=[^\n]*;\s?$",
        rb"[Pp](?:assword|wd|ASSWORD|WD)=(?P<value>[^;\"'\s]{4,})",
    ),
    (
        "a key or token",
        rb"(?:(?i:(?:api|access|account|admin|query|subscription|secret|storage|openai|search)"
        rb"[_-]?key|(?:access|api|auth|bearer|github)[_-]?token|secret)|[A-Z0-9]_KEY|[A-Z0-9]_TOKEN)"
        rb"""\\?["']?\]?(?: ?: ?str|,?\s{1,20}\\?["']?value\\?["']?)? ?$""",
        rb"""[:=,][ \t]{0,3}\\?["']?(?P<value>[A-Za-z0-9+/_~.=-]{20,200})(?=[\\"'\s,;#)}\]&]|\Z)""",
    ),
)
_BEFORE = 300
"""Bytes in which the name is looked for."""

_PATTERNS = [
    *((kind, re.compile(b""), re.compile(pattern)) for kind, pattern in _FORMATS),
    *((kind, re.compile(before), re.compile(pattern)) for kind, before, pattern in _NAMED),
]

_PLACEHOLDER = re.compile(
    r"^[${%<\[*]|(?:^|[^A-Za-z])your|example|placeholder|change_?me|replace|redacted|x{5}|\.{3}|\*{3}"
    r"|0123456|1234567|abcdefg|^Eby8vdM02xN",  # the last is the storage emulator's, known to all
    re.IGNORECASE,
)
_STANDARD = {"pass", "password", "passwd", "secret", "token", "root", "admin", "guest", "postgres"}
_WORDS = re.compile(
    r"(?:[A-Za-z]{1,19}\d{0,4}|\d{1,4})(?:[_./~-]+(?:[A-Za-z]{1,19}\d{0,4}|\d{1,4}))*=*"
)

_BINARY = (
    # ASN.1: a sequence that begins with the version of PKCS #12, PKCS #1 or PKCS #8
    ("a PKCS #12 file of keys", re.compile(rb"0(?:\x80|\x82..|\x83...)\x02\x01\x03", re.DOTALL)),
    (
        "a private key",
        re.compile(rb"0\x82..\x02\x01\x00(?:\x02\x82|0\r\x06\x09\x2a\x86)", re.DOTALL),
    ),
    ("a Java file of keys", re.compile(rb"\xfe\xed\xfe\xed")),
)


def find(data: bytes) -> Key | None:
    """The first key in the content of a file; a placeholder such as `<your key>` is none.

    In a binary file only private keys are looked for.
    """
    for kind, magic in _BINARY:
        if magic.match(data):
            return Key(kind, 0)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        data = data.decode("utf-16", "replace").encode()
    binary = b"\0" in data[:8192]
    found = [
        (match.start(), kind)
        for kind, before, pattern in (_PATTERNS[:1] if binary else _PATTERNS)
        for match in pattern.finditer(data)
        if before.search(data, max(0, match.start() - _BEFORE), match.start())
        and _is_real(match, by_name=bool(before.pattern))
    ]
    if not found:
        return None
    start, kind = min(found)
    return Key(kind, 0 if binary else data.count(b"\n", 0, start) + 1)


def _is_real(match: re.Match[bytes], *, by_name: bool) -> bool:
    """Whether this can be a key: no placeholder, nor words, as what a setting names may be."""
    text = (match.groupdict().get("value") or b"").decode("ascii", "replace")
    if _PLACEHOLDER.search(text) or text.lower() in _STANDARD:
        return False
    if by_name and (_WORDS.fullmatch(text) or (len(text) < 60 and not re.search(r"\d", text))):
        return len(text) < 20
    return len(text) < 10 or len(set(text)) > 5
