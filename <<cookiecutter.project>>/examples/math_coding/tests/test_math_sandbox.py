"""What a program that the model wrote can and cannot do, tried for real."""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "flows" / "standard"

spec = importlib.util.spec_from_file_location("code_execution", FOLDER / "code_execution.py")
assert spec and spec.loader
node = importlib.util.module_from_spec(spec)
spec.loader.exec_module(node)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A server on loopback that would take a connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        yield server


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("print(6 * 7)", "42"),
        ("print('first')\nprint('  last  ')\nprint()", "last"),
        ("print('42 €, 三, ñ')", "42 €, 三, ñ"),
        ("import sys\nprint(3)\nsys.exit()", "3"),
        ("import sys\nprint(3)\nprint('noise', file=sys.stderr)", "3"),
        ("if __name__ == '__main__':\n    print('main')", "main"),
        ("print('x' * 9000)", "x" * 9000),
    ],
)
def test_the_last_printed_line_is_the_answer(code: str, answer: str) -> None:
    assert node.execute(code) == answer


def test_the_standard_library_of_a_calculation_is_at_hand() -> None:
    modules = (
        "math cmath fractions decimal statistics random itertools functools collections re string "
        "datetime calendar time json heapq bisect operator copy typing dataclasses enum textwrap "
        "hashlib numbers array inspect"
    )
    code = f"import {', '.join(modules.split())}\n" + (
        "@dataclasses.dataclass(frozen=True)\n"
        "class Point:\n    x: int\n"
        "Pair = collections.namedtuple('Pair', 'a b')\n"
        "random.shuffle(list(range(9)))\n"
        "print(Point(1), Pair(1, 2), datetime.date(2024, 2, 29).strftime('%A'))"
    )
    assert node.execute(code) == "Point(x=1) Pair(a=1, b=2) Thursday"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("", "wrote no program"),
        ("x = " + "1 + " * 5000 + "1", "longer than"),
        ("x = 1", "printed nothing"),
        ("print(1 / 0)", "ZeroDivisionError: division by zero"),
        ("print(1", "SyntaxError"),
        ("print(1)\nraise SystemExit('no')", "SystemExit: no"),
        ("import sympy_is_not_there", "ModuleNotFoundError"),
        ("print(input())", "EOFError"),
        ("def f(n):\n    return f(n + 1)\nf(0)", "RecursionError"),
        ("raise ValueError('x' * 1000)", "ValueError: x"),
        ("import os\nos.abort()", "ended by signal"),
    ],
)
def test_a_program_without_an_answer_gives_the_reason(code: str, reason: str) -> None:
    answer = node.execute(code)
    assert answer.startswith("error: ")
    assert reason in answer
    assert len(answer) < 250


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time\ntime.sleep(60)",
        "try:\n    while True: pass\nexcept BaseException:\n    while True: pass",
        "import os\nprint(1, flush=True)\nos.close(1)\nwhile True: pass",
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
    ],
)
def test_a_program_without_end_is_stopped(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "WALL_SECONDS", 1.5)
    start = time.monotonic()
    assert node.execute(code) == "error: the program ran out of time"
    assert time.monotonic() - start < 15  # generous: the machine may be busy


def test_a_busy_loop_is_stopped_by_its_cpu_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "WALL_SECONDS", 60.0)
    assert node.execute("while True: pass") == "error: the program ran out of time"


def test_grandchildren_are_killed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the sandbox, which lets no grandchild come to life, the group is what holds."""
    monkeypatch.setattr(node, "WALL_SECONDS", 1.5)
    alive = tmp_path / "alive"  # open for writing in parent and child for as long as they live
    os.mkfifo(alive)
    program = "import os, sys, time\nf = open(sys.argv[1], 'w')\nos.fork()\ntime.sleep(60)"
    reader = threading.Thread(target=alive.read_text)
    reader.start()
    with pytest.raises(node.ProgramError, match="ran out of time"):
        node.run_child((sys.executable, "-c", program, str(alive)), b"")
    reader.join(10)
    assert not reader.is_alive()


def test_memory_is_limited() -> None:
    assert node.execute("a = [0] * 10**9\nprint(len(a))") == "error: MemoryError"
    assert "MemoryError" in node.execute("a = []\nwhile True: a.append('x' * 10**6)")


@pytest.mark.parametrize(
    "code", ["for _ in range(100): print('x' * 10**6)", "while True: print('x', flush=True)"]
)
def test_output_is_limited(code: str) -> None:
    assert node.execute(code) == "error: the program printed more than 10000 bytes"


def test_no_connection_gets_through(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    code = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)\nprint('through')"
    assert node.execute(code).startswith("error: PermissionError")
    with pytest.raises(TimeoutError):
        listener.accept()


@pytest.mark.parametrize(
    "code",
    [
        "print(open('/etc/passwd').read())",
        "print(open('/proc/self/environ').read())",
        f"print(open({str(FOLDER / 'sandbox.py')!r}).read())",
        "import os\nprint(os.open('/etc/passwd', os.O_RDONLY))",
        "import os\nprint(open(os.__file__.replace('os.py', '../../../etc/passwd')).read())",
        "import os\nprint(os.listdir('/'))",
        "import pathlib\nprint(list(pathlib.Path('/').iterdir()))",
        "open('x.txt', 'w').write('x')",
        "import os\nopen(os.__file__, 'a')",
        "import os\nos.open('x.txt', os.O_CREAT | os.O_WRONLY)",
        "import os\nos.mkdir('x')",
        "import os\nos.remove('/tmp/x')",
        "import os\nos.fork()",
        "import os\nwhile True: os.fork()",
        "import os\nos.system('true')",
        "import os\nos.execv('/bin/true', ['true'])",
        "import os\nos.posix_spawn('/bin/true', ['true'], {})",
        "import os\nos.kill(os.getppid(), 9)",
        "import subprocess\nsubprocess.run(['true'])",
        "import _posixsubprocess",
        "import ctypes\nctypes.CDLL(None)",
        "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (9, 9))",
        "import gc\ngc.get_objects()",
        "import sys\nsys.settrace(None)",
        "def f(): pass\nf.__code__ = (lambda: 1).__code__",
    ],
)
def test_what_no_calculation_needs_is_refused(code: str) -> None:
    assert node.execute(code).startswith("error: PermissionError")


ATTEMPTS = [
    ("leave_network", "socket.create_connection(('127.0.0.1', PORT), 2)"),
    ("close_files", "open('/etc/passwd')"),
    ("close_files", "open(f'/proc/{os.getppid()}/environ')"),
    ("close_files", "open('x.txt', 'w')"),
    ("close_files", "os.truncate(VICTIM, 0)"),
    ("close_files", "os.execv(sys.executable, [sys.executable, '-c', ''])"),
    ("refuse_calls", "socket.socket()"),
    ("refuse_calls", "os.fork()"),
    ("refuse_calls", "os.execv(sys.executable, [sys.executable, '-c', ''])"),
    ("refuse_calls", "os.kill(os.getppid(), 0)"),
    ("refuse_calls", "__import__('threading').Thread(target=print).start()"),
]


@pytest.mark.parametrize(("wall", "attempt"), ATTEMPTS)
def test_each_wall_of_the_kernel_holds_alone(
    wall: str, attempt: str, listener: socket.socket, tmp_path: Path
) -> None:
    """As for a program that got around the audit hook."""
    victim = tmp_path / "victim"
    victim.write_text("content")
    program = f"""
import os, random, socket, sys
sys.path.append({str(FOLDER)!r})
import sandbox
PORT, VICTIM = {listener.getsockname()[1]}, {str(victim)!r}
walls = {{
    "leave_network": sandbox.leave_network,
    "close_files": lambda: sandbox.close_files([*sys.path, *sandbox.SHARED_LIBRARIES]),
    "refuse_calls": sandbox.refuse_calls,
}}
if sys.platform != "linux" or not walls["{wall}"]():
    sys.exit("not offered")
try:
    {attempt}
except (OSError, RuntimeError):
    sys.exit("refused")
"""
    command = [sys.executable, "-I", "-S", "-c", program]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    if "not offered" in run.stderr:
        pytest.skip("this system does not offer it")
    assert run.stderr.strip() == "refused"
    assert victim.read_text() == "content"


def test_the_environment_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AOAI_API_KEY", "not-for-the-program")
    assert node.execute("import os\nprint(dict(os.environ), os.environb)") == "{} environ({})"


def test_no_folder_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = node.execute("import os\nprint(os.getcwd())")
    assert Path(folder).is_relative_to(tmp_path.resolve())
    assert list(tmp_path.iterdir()) == []


def test_many_at_once_keep_their_own_answers() -> None:
    programs = [f"print({n} ** 2)" for n in range(16)]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(node.execute, programs)) == [str(n**2) for n in range(16)]


def test_a_child_inherits_no_open_file() -> None:
    with Path(__file__).open() as file:
        os.set_inheritable(file.fileno(), True)
        answer = node.execute(f"import os\nprint(os.fstat({file.fileno()}))")
    assert re.search(r"error: OSError.*Bad file descriptor", answer)
