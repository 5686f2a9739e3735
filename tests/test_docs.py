"""What the pages say can be run: links, modules, options, settings, and the README's tour."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.raw_footage import moving, write_video
from tests.support.training import SMALL, environment
from trainer import settings
from trainer.config import Config
from trainer.presets import PRESETS

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
KNOWN = {field.path for field in settings.fields_of(Config)}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def commands(text: str) -> list[list[str]]:
    """Commands of a page's code blocks, continued lines joined, comments dropped."""
    lines = []
    for block in re.findall(r"^```[a-z]*\n(.*?)^```", text, flags=re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            line = line.strip().removeprefix("$ ")
            if re.match(r"([A-Z_]+=\S+ )*(python |accelerate |torchrun |make )", line):
                lines.append(shlex.split(line, comments=True))
    return lines


def inline(text: str) -> list[list[str]]:
    """Commands of a page's running text; brackets around what may be left out are dropped."""
    running = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    found = re.findall(r"`(python -m [^`]+)`", running)
    return [re.sub(r"[\[\]]", "", command).split() for command in found]


MODULES = """
import json, os, runpy, sys, tempfile, traceback
import torch  # takes seconds: once for all that are run

def run(words):
    code, sys.argv = 1, words
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as ended:
        code = ended.code or 0
        if isinstance(code, str):
            print(code)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)

nothing = os.open(os.devnull, os.O_RDONLY)
for line in sys.stdin:
    with tempfile.TemporaryFile() as told:
        child = os.fork()
        if not child:
            for source, place in ((nothing, 0), (told.fileno(), 1), (told.fileno(), 2)):
                os.dup2(source, place)
            run(json.loads(line))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        told.seek(0)
        print(json.dumps([code, told.read().decode()]), flush=True)
"""


@pytest.fixture(scope="module")
def help_of() -> Iterator[Callable[..., str]]:
    """What `python -m` with these words and --help prints; each runs in a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-c", MODULES], cwd=ROOT, env=environment(), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as forks:  # fmt: skip
        assert forks.stdin is not None and forks.stdout is not None
        ask, answers = forks.stdin, forks.stdout

        def told(*words: str) -> str:
            ask.write(json.dumps([*words, "--help"]) + "\n")
            ask.flush()
            code, text = json.loads(answers.readline())
            assert code == 0, text
            return text

        yield told
        ask.close()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link and picture of a page exists."""
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_settings_that_are_named_exist(page: Path) -> None:
    """Every `group.field=value` and preset=NAME of a page is one that the trainer knows."""
    text = page.read_text()
    groups = "|".join(sorted({path.split(".")[0] for path in KNOWN if "." in path}))
    named = set(re.findall(rf"\b((?:{groups})\.[a-z_.]+)=", text))
    presets = set(re.findall(r"\bpreset=([a-z_]+)", text))
    assert not named - KNOWN and not presets - set(PRESETS)


def test_the_tour_begins_in_the_environment_that_make_train_has_made() -> None:
    """On a fresh machine no other python has the packages, and there is no `accelerate`."""
    block = re.findall(r"^```\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.M | re.S)[1]
    assert block.splitlines()[0].startswith(". .venv/bin/activate ")
    assert "accelerate launch" in block


@pytest.mark.slow
def test_modules_and_options_that_are_named_exist(help_of: Callable[..., str]) -> None:
    """Every `python -m MODULE [ACTION] --option` of any page, in its code blocks and its running
    text, is understood by that module."""
    wanted: dict[str, list[list[str]]] = {}
    for page in PAGES:
        text = page.read_text()
        for words in [*commands(text), *inline(text)]:
            if "-m" in words and "python" in words:
                at = words.index("-m") + 1
                wanted.setdefault(words[at], []).append(words[at + 1 :])
    assert {"data_shards.prepare", "trainer.generate", "trainer.evaluate"} <= wanted.keys()
    assert ["write", "runs"] in wanted["launch.prometheus"], "running text is read, too"
    for module, uses in wanted.items():
        told = help_of(module)
        # A module with actions refuses a first word that is none of them, asked for help or not.
        first = {use[0] for use in uses if use and re.fullmatch(r"[a-z][a-z-]*", use[0])}
        told += "".join(help_of(module, word) for word in sorted(first))
        words = {word for use in uses for word in use if re.fullmatch(r"[a-z][a-z-]*", word)}
        listed = set(re.findall(r"^ +([a-z][a-z-]*)\b", told, flags=re.M)) - first
        for command in sorted(words & listed):
            told += help_of(module, command)
        options = {w.split("=")[0] for use in uses for w in use if re.match(r"--[a-z]", w)}
        missing = [o for o in options if not re.search(rf"{re.escape(o)}(?![\w-])", told)]
        assert not missing, f"{module}: {missing}"


@pytest.mark.ranks
@pytest.mark.slow
def test_the_tour_on_ones_own_footage(tmp_path: Path) -> None:
    """The README's tour runs as printed, on two small videos and with small networks."""
    for shade in (40, 120):
        clip = moving(20, height=64, width=64, shade=shade)
        write_video(tmp_path / "videos" / f"{shade}.mp4", clip)
    text = (ROOT / "README.md").read_text()
    tour = list(commands(text.split("## Five minutes")[1].split("\n## ")[0]))
    assert len(tour) == 5
    for words in tour:
        words = [w.replace("~/videos", str(tmp_path / "videos")) for w in words]
        if words[0] == "accelerate":
            words = [sys.executable, "-m", "accelerate.commands.accelerate_cli", *words[1:]]
            words = [w for w in words if not w.startswith("train.minutes")]
            words.insert(words.index("launch") + 1, "--main_process_port=0")
            words += [w for w in SMALL if not w.startswith("schedule")] + ["train.steps=4"]
            words = [str(ROOT / w) if (ROOT / w).is_file() else w for w in words]
        else:
            words = [sys.executable, *words[1:]]
        run = subprocess.run(
            words, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, f"{shlex.join(words)}\n{run.stdout}{run.stderr}"
    made = {path.suffix for path in (tmp_path / "runs" / "mine" / "samples").iterdir()}
    assert {".png", ".gif", ".mp4"} <= made
    assert (tmp_path / "runs" / "mine" / "report.html").is_file()
    assert (tmp_path / "runs" / "mine" / "evaluation.json").is_file()
