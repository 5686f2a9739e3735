"""Settings: layers, words, and a one-line error for every mistake."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from data_shards.errors import UserError
from tests.gpu import words as gpu
from trainer import settings
from trainer.config import resolve


@dataclass(frozen=True)
class Inner:
    """Settings of a part."""

    size: int = 1
    """How large."""
    pair: tuple[float, float] = (0.9, 0.999)
    rate: float | None = None
    """How fast, over
    two lines."""

    def __post_init__(self) -> None:
        if self.size < 0:
            raise UserError(f"inner.size: {self.size} is below 0")


@dataclass(frozen=True)
class Outer:
    """Settings of the whole."""

    inner: Inner = field(default_factory=Inner)
    name: str = "x"


def test_later_layers_win_over_earlier_ones() -> None:
    """Defaults < layers in order < words."""
    layers = ({"inner": {"size": 2, "rate": 1.0}}, {"inner.size": 3})
    got = settings.compose(Outer, *layers, words=["inner.pair=[0.5,0.6]"])
    assert got == Outer(Inner(size=3, pair=(0.5, 0.6), rate=1.0))


def test_numbers_in_exponential_form_are_numbers(tmp_path: Path) -> None:
    """1e-3 is a float in words and files, which YAML 1.1 denies."""
    (tmp_path / "a.yaml").write_text("inner: {rate: 1e-3}\n")
    loaded = settings.compose(Outer, settings.load_yaml(tmp_path / "a.yaml"))
    assert (
        loaded.inner.rate == 1e-3 == settings.compose(Outer, words=["inner.rate=1e-3"]).inner.rate
    )


def test_yaml_gives_the_same_config_back(tmp_path: Path) -> None:
    """A resolved config written as YAML composes to itself."""
    config = Outer(Inner(size=7, pair=(0.1, 0.2), rate=None), name="5")
    (tmp_path / "a.yaml").write_text(settings.to_yaml(config))
    assert settings.compose(Outer, settings.load_yaml(tmp_path / "a.yaml")) == config


def test_fields_are_listed_with_their_docstrings() -> None:
    """Help shows each leaf's path, type, default and the string under it."""
    listed = {f.path: f for f in settings.fields_of(Outer)}
    assert list(listed) == ["inner.size", "inner.pair", "inner.rate", "name"]
    assert listed["inner.rate"] == ("inner.rate", "float | null", None, "How fast, over two lines.")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("inner.sise=3", "inner.sise: no such setting; did you mean inner.size?"),
        ("size=3", "size: no such setting; did you mean inner.size?"),
        ("inner=3", "inner: is a group of settings; set one of its fields, e.g. inner.size=..."),
        ("inner.size=many", "inner.size: 'many' is not of type int"),
        ("inner.size=1.5", "inner.size: 1.5 is not of type int"),
        ("inner.pair=[a,1]", "inner.pair: ['a', 1] is not of type tuple[float, float]"),
        ("inner.size=[1", "inner.size: '[1' is not a value"),
        ("inner.size=-1", "inner.size: -1 is below 0"),
        ("fast", "'fast': expected setting=value, such as train.minutes=10"),
    ],
)
def test_a_mistake_is_named_in_one_line(word: str, message: str) -> None:
    """Unknown keys name the nearest one, wrong types and ranges name the path."""
    with pytest.raises(UserError) as caught:
        settings.compose(Outer, words=[word])
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.getcwd []\n", "[1, 2]\n", "a: {b: [}\n",
        "a: &a {c: 1}\nb: {x: *a, y: *a}\n", "a: &a {b: *a}\n",
    ],
)  # fmt: skip
def test_a_strange_file_builds_nothing(tmp_path: Path, text: str) -> None:
    """YAML tags, aliases (of which nine lines can be millions), lists and broken files are refused,
    the file named."""
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError, match=r"^/.*a\.yaml: [^\n]+$"):
        settings.load_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize("text", ["no", "007", "a: b", "", "null", "1e3", "[x]"])
def test_text_is_taken_as_it_stands(text: str) -> None:
    """Words for text settings are not YAML: `no` is no truth value and 007 no number."""
    assert resolve([f"name={text}"]).name == text
    assert resolve(["train.precision=no", "networks.compile=no"]).networks.compile == "no"


@pytest.mark.parametrize(
    "words",
    [*gpu.STEPS.values(), *gpu.NODES.values(), *(words for words, _ in gpu.PRECISIONS.values())],
    ids=" ".join,
)
def test_what_the_gpu_tests_ask_for_exists(words: tuple[str, ...]) -> None:
    """Their settings can be taken where there is no GPU, so that they do not fail on one first."""
    assert resolve([*words, *gpu.GENTLE])


def test_a_truth_value_is_no_text(tmp_path: Path) -> None:
    """A file's bare `no` is YAML's false: one line says to quote it, and quoted it is taken."""
    file = tmp_path / "mine.yaml"
    file.write_text("train: {precision: no}\n")
    message = "train.precision: YAML takes no, off, yes and on for truth values; quote it"
    with pytest.raises(UserError, match=re.escape(message)):
        resolve(file=str(file))
    file.write_text("train: {precision: 'no'}\n")
    assert resolve(file=str(file)).train.precision == "no"


@pytest.mark.parametrize("name", ["../../x", "/x", "a/b", ".x", " x"])
def test_a_run_stays_below_its_folder(name: str) -> None:
    """Its name is that of a folder under runs/, and of no other."""
    with pytest.raises(UserError, match=r"^name: .* is not the name of a folder under runs/$"):
        resolve(["preset=folder", "data.manifest=any", f"name={name}"])
