"""Run one untrusted Python program, read from standard input, behind as many walls as there are.

`code_execution.py` starts this file in a process of its own, with an empty environment and an empty
working directory. Before the program's first line the process gives up, in this order:

* amounts: CPU time, memory, open files, written bytes, processes (every Unix);
* the network: a user and network namespace without any interface (Linux, where users may have one);
* files: Landlock leaves reading of Python's library and of shared libraries (Linux 5.13 or newer);
* other processes: a seccomp filter refuses to start, signal or inspect a process and to create a
  socket (Linux on x86_64 or aarch64, also in a container that forbids namespaces);
* the same things once more inside Python: an audit hook refuses every event that a calculation
  does not need (everywhere).

The first four are walls of the kernel, and one that a system does not offer is left out silently.
The audit hook is not a sandbox: it stops what a model writes by accident or when told to, not
someone who knows the interpreter's insides. Where it stands almost alone (macOS), run this example
on questions that you trust, or in a container on Linux.

Exit code 0: the program ran to its end. 1: it failed, and the last line of the output says why.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import sys
from collections.abc import Callable, Iterable
from typing import Any

CPU_SECONDS = 2
MEMORY_BYTES = 256 * 1024 * 1024
OPEN_FILES = 32

NEW_USER_AND_NETWORK = 0x10000000 | 0x40000000
SET_PARENT_DEATH_SIGNAL, SET_SECCOMP, SET_NO_NEW_PRIVILEGES = 1, 22, 38
SIGKILL = 9

LANDLOCK_CREATE, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT = 444, 445, 446
READ_FILE, READ_FOLDER = 4, 8
SHARED_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")

# The kernel's calls that a program is refused, with their numbers on x86_64 and on aarch64.
REFUSED_CALLS: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "io_uring_setup": (425, 425),  # does what the calls here do without calling them
    "clone": (56, 220),
    "clone3": (435, 435),
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "pidfd_open": (434, 434),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "prctl": (157, 167),
    "setrlimit": (160, 164),
    "prlimit64": (302, 261),
    "unshare": (272, 97),
    "setns": (308, 268),
}
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, kernel's name
OTHER_CALL_TABLE = 0x40000000  # x32 numbers its calls from here: a way around the list above
ALLOW, REFUSE = 0x7FFF0000, 0x00050001  # refuse = the call fails with EPERM

HARMLESS_EVENTS = frozenset(
    [
        *("compile", "exec", "marshal.loads", "object.__getattr__", "sys._getframe"),
        *("sys._getframemodulename", "sys.unraisablehook", "cpython._PySys_ClearAuditHooks"),
        *("array.__new__", "builtins.id", "builtins.input", "builtins.input/result", "time.sleep"),
    ]
)
READING_EVENTS = frozenset(["open", "os.listdir", "os.scandir"])
# Not all that these do is told by an event, so they cannot be imported.
UNAUDITED_MODULES = frozenset(["ctypes", "_ctypes", "_posixsubprocess"])


def main() -> None:
    """Read the program, put up the walls, run it, and end with its exit code."""
    program = sys.stdin.buffer.read().decode("utf-8", errors="replace")
    library = tuple(path for path in sys.path if path)
    os.environ.clear()  # Python itself may have added a locale
    limit_amounts()
    if sys.platform == "linux":
        die_with_the_flow()
        leave_network()
        close_files([*library, f"{sys.base_prefix}/lib", *SHARED_LIBRARIES])
        refuse_calls()
    for name in UNAUDITED_MODULES & set(sys.modules):
        del sys.modules[name]
    sys.addaudithook(make_guard(library))
    sys.exit(run(program))


def die_with_the_flow() -> None:
    """Ask the kernel to end this process when the thread that started it ends."""
    _prctl(SET_PARENT_DEATH_SIGNAL, SIGKILL)


def leave_network() -> bool:
    """Move into a namespace without network; returns whether the system allowed it."""
    return bool(ctypes.CDLL(None).unshare(NEW_USER_AND_NETWORK) == 0)


def close_files(readable: Iterable[str]) -> bool:
    """Leave nothing of the file system but reading `readable` (paths); returns whether it holds."""
    call = ctypes.CDLL(None).syscall
    version = call(LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    # All that this kernel can forbid: truncating and linking came with versions 2 and 3.
    rights = ctypes.c_uint64(0x7FFF if version >= 3 else 0x1FFF)
    rules = call(LANDLOCK_CREATE, ctypes.byref(rights), ctypes.c_size_t(8), 0)
    for path in readable:
        _allow_reading(call, rules, path)
    _prctl(SET_NO_NEW_PRIVILEGES, 1)
    result = call(LANDLOCK_RESTRICT, rules, 0)
    os.close(rules)
    return bool(result == 0)


def _allow_reading(call: Callable[..., int], rules: int, path: str) -> None:
    try:
        place = os.open(path, os.O_PATH)
    except OSError:  # this system has no such folder
        return
    for rights in (READ_FILE | READ_FOLDER, READ_FILE):  # the second for what is not a folder
        if call(LANDLOCK_ADD_RULE, rules, 1, struct.pack("=Qi", rights, place), 0) == 0:
            break
    os.close(place)


def refuse_calls() -> bool:
    """Refuse the kernel's calls in REFUSED_CALLS from here on; returns whether it holds."""
    machine = os.uname().machine
    if machine not in MACHINES or sys.maxsize.bit_length() < 63:
        return False
    column, architecture = MACHINES[machine]
    numbers = [call[column] for call in REFUSED_CALLS.values()]
    code = _filter(architecture, [number for number in numbers if number is not None])
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    _prctl(SET_NO_NEW_PRIVILEGES, 1)
    return _prctl(SET_SECCOMP, 2, ctypes.create_string_buffer(program)) == 0


def _filter(architecture: int, refused: list[int]) -> bytes:
    """A filter for the kernel: one load, one comparison for each refused call, two ends."""
    load, equal, at_least, end = 0x20, 0x15, 0x35, 0x06
    last = len(refused) + 5
    steps = [(load, 0, 0, 4), (equal, 0, last - 2, architecture), (load, 0, 0, 0)]
    steps += [(at_least, last - 4, 0, OTHER_CALL_TABLE)]
    steps += [(equal, last - at - 1, 0, call) for at, call in enumerate(refused, start=4)]
    steps += [(end, 0, 0, ALLOW), (end, 0, 0, REFUSE)]
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def _prctl(option: int, value: int, pointer: Any = None) -> int:
    zero = ctypes.c_ulong(0)
    result = ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), pointer or zero, zero, zero)
    return int(result)


def limit_amounts() -> None:
    """Limit what may be used; the kernel ends the process or fails the call that goes beyond."""
    limits = {
        "RLIMIT_AS": MEMORY_BYTES,
        "RLIMIT_NOFILE": OPEN_FILES,
        "RLIMIT_FSIZE": 0,
        "RLIMIT_CORE": 0,
        "RLIMIT_NPROC": 0,  # not enforced for root: there the seccomp filter counts
    }
    # One second apart: at the first comes SIGXCPU, which tells the reason, at the second SIGKILL.
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
    for name, value in limits.items():
        try:
            resource.setrlimit(getattr(resource, name), (value, value))
        except (AttributeError, ValueError):  # macOS limits no memory; a lower limit stays
            continue


def make_guard(library: tuple[str, ...]) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that lets a calculation happen and raises PermissionError at anything else.

    Files are open for reading below the folders of `library` only. All that it needs is bound here,
    so that the program cannot swap it by assigning to a module.
    """
    harmless, reading, unaudited = HARMLESS_EVENTS, READING_EVENTS, UNAUDITED_MODULES
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    folders = tuple(f"{path}/" for path in library)
    kind, text, refusal = type, str, PermissionError

    def guard(event: str, args: tuple[Any, ...]) -> None:
        if event in reading:
            path, flags = args[0], args[2] if event == "open" else 0
            inside = kind(path) is text and f"{path}/".startswith(folders) and "/.." not in path
            fine = inside and not flags & writing
        elif event == "import":
            fine = args[0] not in unaudited
        elif event == "object.__setattr__":
            fine = args[1] != "__code__"
        else:
            fine = event in harmless
        if not fine:
            raise refusal(f"{event} is refused here")

    return guard


def run(program: str) -> int:
    """Run the program as `__main__`; returns the exit code, and prints why where it failed."""
    sys.modules["__main__"] = module = type(sys)("__main__")
    try:
        exec(compile(program, "<program>", "exec"), vars(module))
        return 0
    except SystemExit as stop:
        if not stop.code:
            return 0
        reason = f"SystemExit: {stop.code}"
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}"
    print("\n" + " ".join(reason.split()), file=sys.__stdout__, flush=True)
    return 1


if __name__ == "__main__":
    main()
