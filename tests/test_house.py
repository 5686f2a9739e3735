"""House rules: what every file of the project keeps to, and who may import whom."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("data_shards", "trainer", "tuning", "launch", "benchmarks")
SOURCES = sorted(p for room in ROOMS for p in (ROOT / room).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

ONLY = {
    "accelerate": {"trainer/parallel.py", "trainer/trackers.py"},
    "deepspeed": {"trainer/zero.py"},
    "torch.distributed": {"trainer/comm.py"},
    "prometheus_client": {"trainer/telemetry.py", "trainer/metrics.py", "trainer/endpoint.py"},
}
SAFE = {"inspect"}
"""Names inside packages that are never run as scripts, so their folder never leads sys.path."""
PURE = ("losses", "projections", "scores", "schedule")
PURE_MAY = {
    "__future__", "collections", "dataclasses", "functools", "itertools", "math", "typing", "torch",
    "numpy", "skimage", "data_shards.errors", "trainer.losses", "trainer.projections",
}  # fmt: skip
"""What pure modules import: no files, no network, no processes, no settings."""
ROOM_MAY_NOT = {
    "data_shards": ("trainer", "tuning", "launch"),
    "trainer": ("tuning", "launch"),
    "tuning": ("launch",),
}
FORBIDDEN = (
    r"\bpickle\.(load|loads|Unpickler)",
    r"torch\.load\((?!.*weights_only=True)",
    r"yaml\.(load|unsafe_load|full_load)\(",
    r"shell=True",
    r"nan_to_num",
    r"\b(TODO|FIXME|XXX|HACK)\b",
    r"NotImplementedError",
)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports_of(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = f"{'.' * node.level}{node.module or ''}"
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def matches(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_file_is_short_and_says_what_it_is(path: Path) -> None:
    """Files have a docstring and at most 300 lines; functions at most 60."""
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "no module docstring"
    assert text.count("\n") <= 300
    long = [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > 60
    ]
    assert not long


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_file_does_nothing_that_is_forbidden(path: Path) -> None:
    """No unpickling, unsafe YAML or shell, nothing unfinished, no exception that vanishes."""
    text = path.read_text()
    found = [pattern for pattern in FORBIDDEN if re.search(pattern, text)]
    swallowed = [
        node.lineno
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ExceptHandler) and all(isinstance(s, ast.Pass) for s in node.body)
    ]
    assert not found and not swallowed


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_file_imports_what_its_room_may(path: Path) -> None:
    """Data flows one way, by full names; pure modules import nothing that does anything but
    compute; and each library has its one place."""
    name, room = name_of(path), path.relative_to(ROOT).parts[0]
    names = set(imports_of(ast.parse(path.read_text())))
    bad = [n for n in names for other in ROOM_MAY_NOT.get(room, ()) if matches(n, other)]
    bad += [n for n in names if n.startswith(".")]
    if name in {f"trainer/{stem}.py" for stem in PURE}:
        bad += [n for n in names if not any(matches(n, may) for may in PURE_MAY)]
    if room not in ("tuning", "benchmarks"):
        bad += [n for n in names if matches(n, "ray") or matches(n, "optuna")]
    if room != "benchmarks":
        bad += [n for n in names for lib, where in ONLY.items() if matches(n, lib)
                and name not in where]  # fmt: skip
    assert not bad


def may_fail(statement: ast.stmt) -> bool:
    """Whether a statement asserts something, or names what does."""
    names = (getattr(n, "id", "") or getattr(n, "attr", "") for n in ast.walk(statement))
    asserts = any(isinstance(n, ast.Assert) for n in ast.walk(statement))
    return asserts or any(re.search(r"assert|raises|check|expect|compare", n) for n in names)


@pytest.mark.parametrize("path", TESTS, ids=name_of)
def test_a_test_says_what_it_means_and_can_fail(path: Path) -> None:
    """Every test has one sentence of intent and asserts something."""
    text = path.read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            assert ast.get_docstring(node), f"{node.name} has no sentence of intent"
            assert any(map(may_fail, node.body[1:])), node.name


def test_no_module_shadows_a_library() -> None:
    """Scripts put their own folder first on sys.path, so no module may have a library's name."""
    ours = {p.stem for p in SOURCES if p.parent != ROOT / "benchmarks"} - {"__init__", "__main__"}
    theirs = set(sys.stdlib_module_names) | {
        name.split(".")[0] for name in packages_distributions() if not name.startswith("_")
    }
    projects = {"data_shards", "trainer", "tuning", "launch", "benchmarks", "tests"}
    assert not (ours & (theirs - projects)) - SAFE


def test_importing_has_no_effect(tmp_path: Path) -> None:
    """Every module can be imported, and doing so prints, writes and starts nothing."""
    modules = [
        name_of(p).removesuffix(".py").replace("/", ".")
        for p in SOURCES
        if p.name not in ("__init__.py", "__main__.py")
    ]
    script = (
        "import importlib, sys, threading\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**__import__("os").environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (run.returncode, run.stdout) == (0, ""), run.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command",
    [("ruff", "format", "--check", "."), ("ruff", "check", ".")],
    ids=lambda command: " ".join(command),
)
def test_lint(command: tuple[str, ...]) -> None:
    """The tree is formatted and free of lint."""
    run = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.slow
def test_types() -> None:
    """Types check."""
    run = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
