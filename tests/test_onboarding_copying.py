"""What `make onboard` copies of a folder, and what it leaves behind and why."""

from __future__ import annotations

import base64
import os
import random
import socket
import string
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llmops.onboarding import copying, keys

TARGET = Path("flows/greeter")
LETTERS = string.ascii_letters + string.digits
# No file of a repo shows a key in one piece, so that scanners of repos have nothing to find.
PEM = "-----BEGIN {}PRIVATE" + " KEY-----\n{}\n-----END"


def drawn(chance: random.Random, length: int, alphabet: str = LETTERS) -> str:
    """Random characters, a digit among them."""
    text = [chance.choice(alphabet) for _ in range(length)]
    text[chance.randrange(length)] = chance.choice(string.digits)
    return "".join(text)


def encoded(chance: random.Random, length: int) -> str:
    return base64.b64encode(chance.randbytes(length)).decode()


def signed(chance: random.Random) -> str:
    parts = [base64.urlsafe_b64encode(chance.randbytes(30)).decode() for _ in range(3)]
    return f"eyJ{parts[0]}.eyJ{parts[1]}.{parts[2]}"


HEX = "0123456789abcdef"
UPPER = string.ascii_uppercase + string.digits
PLANTED: dict[str, Callable[[random.Random], str]] = {
    "Azure OpenAI, old": lambda c: f"AOAI_API_KEY={drawn(c, 32, HEX)}",
    "Azure OpenAI, in code": lambda c: f"AzureOpenAI(api_key='{drawn(c, 32, HEX)}', timeout=3)",
    "Azure OpenAI, in JSON": lambda c: f'{{"api_key": "{drawn(c, 32, HEX)}"}}',
    "Azure OpenAI, in a string": lambda c: f'"{{\\"api-key\\": \\"{drawn(c, 32, HEX)}\\"}}"',
    "Azure OpenAI, a default": lambda c: f'os.getenv("AOAI_API_KEY", "{drawn(c, 32, HEX)}")',
    "Azure OpenAI, a variable": lambda c: (
        f'"name": "AOAI_API_KEY",\n   "value": "{drawn(c, 32, HEX)}"'
    ),
    "Azure OpenAI, new": lambda c: f"{drawn(c, 52)}JQQJ99{drawn(c, 18)}ACOG{drawn(c, 4)}",
    "Azure AI Search": lambda c: f"{drawn(c, 42)}AzSeB{drawn(c, 5)}",
    "Azure DevOps": lambda c: f"{drawn(c, 76)}AZDO{drawn(c, 4)}",
    "Azure client secret": lambda c: f"{drawn(c, 3)}8Q~{drawn(c, 34)}",
    "Azure storage": lambda c: (
        f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={encoded(c, 64)};"
    ),
    "Azure service bus": lambda c: f"Endpoint=sb://a/;SharedAccessKey={encoded(c, 32)}",
    "Azure SAS": lambda c: f"https://a/b?sv=2024&sig={drawn(c, 40)}%3D&se=2030",
    "SQL": lambda c: f"Server=tcp:a;Database=b;User ID=c;Password={drawn(c, 12)};Encrypt=True",
    "address": lambda c: f"mongodb://reader:{drawn(c, 12)}@db.contoso.net:27017",
    "OpenAI, old": lambda c: f"sk-{drawn(c, 48)}",
    "OpenAI, project": lambda c: f"sk-proj-{drawn(c, 60, LETTERS + '_-')}",
    "Anthropic": lambda c: f"sk-ant-api03-{drawn(c, 80, LETTERS + '_-')}",
    "GitHub": lambda c: f"ghp_{drawn(c, 36)}",
    "GitHub, fine-grained": lambda c: f"github_pat_{drawn(c, 22)}_{drawn(c, 59)}",
    "GitLab": lambda c: f"glpat-{drawn(c, 20)}",
    "AWS": lambda c: f"AKIA{drawn(c, 16, UPPER)}",
    "AWS, secret": lambda c: f"aws_secret_access_key = {drawn(c, 40)}",
    "Google": lambda c: f"AIza{drawn(c, 35, LETTERS + '_-')}",
    "Google, client": lambda c: f"GOCSPX-{drawn(c, 28)}",
    "Slack": lambda c: f"xoxb-{drawn(c, 12, string.digits)}-{drawn(c, 24)}",
    "Slack, webhook": lambda c: (
        f"https://hooks.slack.com/services/T{drawn(c, 8)}/B{drawn(c, 8)}/{drawn(c, 24)}"
    ),
    "JWT": signed,
    "Hugging Face": lambda c: f"hf_{drawn(c, 34)}",
    "Databricks": lambda c: f"dapi{drawn(c, 32, HEX)}",
    "Stripe": lambda c: f"sk_live_{drawn(c, 24)}",
    "SendGrid": lambda c: f"SG.{drawn(c, 22)}.{drawn(c, 43)}",
    "npm": lambda c: f"npm_{drawn(c, 36)}",
    "PyPI": lambda c: f"pypi-AgEIcHlwaS5vcmc{drawn(c, 60)}",
    "bearer": lambda c: f"Authorization: Bearer {drawn(c, 40)}",
    "PEM": lambda c: PEM.format("RSA ", encoded(c, 60)),
    "PEM, protected": lambda c: PEM.format("RSA ", f"Proc-Type: 4,ENCRYPTED\n\n{encoded(c, 60)}"),
    "PEM, in JSON": lambda c: PEM.format("", encoded(c, 60)).replace("\n", "\\n"),
    "PuTTY": lambda c: f"PuTTY-User-Key-File-3: ssh-ed25519 {drawn(c, 20)}",
}
PROSE = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc"]) | st.sampled_from("\n \t"), max_size=400
)


@pytest.mark.parametrize("kind", PLANTED)
@given(before=PROSE, after=PROSE, seed=st.integers())
def test_a_planted_key_is_found_and_not_quoted(
    kind: str, before: str, after: str, seed: int
) -> None:
    key = PLANTED[kind](random.Random(seed))
    data = f"{before}\n{key}\n{after}".encode()
    found = keys.find(data)
    first = before.count("\n") + 2
    assert found and first <= found.line <= first + key.count("\n")
    assert not any(part in found.kind for part in key.split() if len(part) > 9)


@given(PROSE)
def test_prose_holds_no_key(text: str) -> None:
    assert keys.find(text.encode()) is None


@pytest.mark.parametrize(
    "text",
    [
        "api_key: ${api_key}",
        "api_key: ${AOAI_API_KEY}",
        "api_key: <your-azure-openai-key-goes-here>",
        'api_key = "your-azure-openai-api-key-2024"',
        'api_key = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"',
        'api_key = "00000000000000000000000000000000"',
        "AOAI_API_KEY=****************************",
        "OPENAI_API_KEY=sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        'api_key=os.environ["AZURE_OPENAI_API_KEY"]',
        "api_key=self.configuration.azure_openai_key_2",
        'secret: "kv-llmops-prod-westeurope-001"',
        "postgres://reader:password@db.contoso.net/x",
        "https://{user}:{password}@contoso.net",
        "https://reader:wh4tever-1@db.example.com",
        "-----BEGIN PRIVATE" + " KEY-----\n...\n-----END",
        "-----BEGIN PUBLIC" + " KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END",
        '{"id": "3fa9c1d27be84f60a5d2c8b1907e6f34", "text": "a row with a hash"}',
        "pip --hash=sha256:3fa9c1d27be84f60a5d2c8b1907e6f343fa9c1d27be84f60a5d2c8b1907e6f34",
        "a task-force-with-a-very-long-name-of-several-words",
        "AKIAIOSFODNN7" + "EXAMPLE",
    ],
)
def test_a_placeholder_is_no_key(text: str) -> None:
    assert keys.find(text.encode()) is None


def test_other_encodings_and_binary_files() -> None:
    key = f"AOAI_API_KEY={drawn(random.Random(1), 32, HEX)}"
    found = keys.find(f"a\n{key}\n".encode("utf-16"))
    assert found and found.line == 2
    pem = PEM.format("", encoded(random.Random(1), 60)).encode()
    assert keys.find(b"PK\x03\x04\0\0" + key.encode()) is None
    assert keys.find(b"PK\x03\x04\0\0" + pem) == keys.Key("a private key", 0)
    assert keys.find(b"0\x82\x04\x10\x02\x01\x03" + bytes(9)) == keys.Key(
        "a PKCS #12 file of keys", 0
    )
    assert keys.find(b"\x89PNG\r\n\x1a\n\0" + os.urandom(99)) is None


# --- folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """repo/src/flow, where repo is the user's own."""
    place = tmp_path / "repo" / "src" / "flow"
    write(place / "flow.dag.yaml", "nodes: []\n")
    return place


def write(path: Path, text: str = "x\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def names(folder: Path, **options: object) -> tuple[list[str], dict[str, str]]:
    """The names that come along, and why the others do not."""
    copied, left = copying.collect(folder, TARGET, **options)  # type: ignore[arg-type]
    assert all(one.source.is_file() for one in copied)
    come = [one.target.relative_to(TARGET).as_posix() for one in copied]
    return come, {one.path.relative_to(folder).as_posix(): one.reason for one in left}


def test_everything_comes_but_caches(folder: Path) -> None:
    for path in (
        *("a.py", "images/a.png", "deep/er/b.jinja2", ".amlignore", ".env.example", "b.key.md"),
        *("__pycache__/a.pyc", ".git/config", ".runs/x", "node_modules/x.js", "c.pyc", "skipped/d"),
        *("own/bin/python", "own/pyvenv.cfg", ".promptflow/flow.tools.json", "skipped.txt"),
    ):
        write(folder / path)
    come, left = names(folder, skip={"skipped", "skipped.txt"})
    assert come == [
        *(".amlignore", ".env.example", "a.py", "b.key.md", "deep/er/b.jinja2", "flow.dag.yaml"),
        "images/a.png",
    ]
    assert left == {}


def test_keys_stay(folder: Path) -> None:
    secret = drawn(random.Random(7), 32, HEX)
    for path in (".env", ".env.local", "azure.env", "a/server.PEM", "b.pfx", "id_rsa", ".netrc"):
        write(folder / path)
    write(folder / "call.py", f'import a\n\nAPI_KEY = "{secret}"\n')
    write(folder / ".env.sample", f"AOAI_API_KEY={secret}\n")
    come, left = names(folder)
    assert come == ["flow.dag.yaml"]
    assert left["call.py"] == "line 3 holds what looks like a key or token"
    assert left[".env.sample"].startswith("line 1 holds")
    assert left[".env.local"] == "an environment file, which may hold keys"
    assert left["b.pfx"] == "a file of keys, passwords or certificates, by its name"
    assert len(left) == 9 and not any(secret in reason for reason in left.values())


def test_size(folder: Path) -> None:
    for name, size in (("just.bin", copying.SIZE_LIMIT), ("more.bin", 63_400_000)):
        with (folder / name).open("wb") as file:
            file.truncate(size)
    come, left = names(folder)
    assert come == ["flow.dag.yaml", "just.bin"]
    assert left == {"more.bin": "63 MB, more than 50 MB"}


def test_symlinks_inside_the_root_come_as_what_they_lead_to(folder: Path) -> None:
    repo = folder.parents[1]
    shared = write(repo / "shared" / "tools.py", "def run(): ...\n").parent
    write(shared / ".env")
    write(repo / ".git" / "config")
    write(repo.parent / "elsewhere.txt")
    (folder / "shared").symlink_to("../../shared")
    (folder / "tools.py").symlink_to(shared / "tools.py")
    (folder / "innocent.txt").symlink_to("../../shared/.env")
    (folder / "config").symlink_to("../../.git/config")
    (folder / "away").symlink_to("../../../elsewhere.txt")
    (folder / "nowhere").symlink_to("no/such/file")
    (folder / "itself").symlink_to("itself")
    come, left = names(folder, root=repo)
    assert come == ["flow.dag.yaml", "shared/tools.py", "tools.py"]
    assert left == {
        "away": "a symlink that leads outside repo",
        "config": "a symlink into a cache or into what version control keeps",
        "innocent.txt": "an environment file, which may hold keys",
        "itself": "a symlink that leads nowhere",
        "nowhere": "a symlink that leads nowhere",
        "shared/.env": "an environment file, which may hold keys",
    }
    come, left = names(folder)
    assert come == ["flow.dag.yaml"]
    assert left["shared"] == left["tools.py"] == "a symlink that leads outside flow"


def test_symlinks_in_circles_come_to_an_end(folder: Path) -> None:
    (folder / "up").symlink_to(".")
    names_of = [f"part{number}" for number in range(5)]
    for name in names_of:
        write(folder / name / "a.txt")
        for other in names_of:
            (folder / name / f"to_{other}").symlink_to(f"../{other}")
    come, left = names(folder)
    assert {"part0/a.txt", "part0/to_part1/a.txt"} <= set(come) and len(come) < 200
    assert left["up"] == "a folder that comes along already: symlinks lead in a circle"


def test_what_is_no_file_or_cannot_be_read(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        place = os.open(folder, os.O_RDONLY)  # a socket's path must be short
        server.bind(f"/proc/self/fd/{place}/socket" if Path("/proc/self/fd").exists() else "s")
        os.close(place)
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.txt")).write_text("x")
    write(folder / "bell\a.txt")
    come, left = names(folder)
    assert come == ["flow.dag.yaml"]
    assert (
        left["pipe"]
        == left["socket"]
        == ("not a file with content, but a device, a pipe or a socket")
    )
    reason = "its name is not UTF-8 or holds characters that do not show"
    assert left["caf\\udce9.txt"] == left["bell\\x07.txt"] == reason


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(folder: Path) -> None:
    write(folder / "closed.txt").chmod(0)
    closed = write(folder / "closed" / "a.txt").parent
    closed.chmod(0)
    try:
        come, left = names(folder)
    finally:
        closed.chmod(0o700)
    assert come == ["flow.dag.yaml"]
    assert "Permission denied" in left["closed.txt"] and "Permission denied" in left["closed"]
