"""What a reproduction does not claim: noise between seeds, unseen footage, what is left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from launch.reproduce import __main__ as entry
from launch.reproduce import coding, figures, paper, planner, report, trainings, verdicts
from launch.reproduce.baselines import BASELINES
from launch.reproduce.context import Claim, Context, Picture, Stage, StageResult, Table
from launch.reproduce.figures import BOUND, FROZEN, Figures
from launch.reproduce.footage import SYNTHETIC
from launch.reproduce.lives import Lives
from launch.reproduce.pacing import Pacing
from launch.reproduce.planner import Plan
from launch.reproduce.stages import (
    STAGES,
    ablation,
    adversarial,
    compact,
    presets,
    random_latents,
    sheets,
)
from launch.reproduce.stages.compact import Point
from launch.reproduce.state import State
from launch.reproduce.variants import STILL, VARIANTS, Rows, variant
from tests.support.training import SMALL
from trainer.main import main as train
from trainer.run import open_run

pytestmark = pytest.mark.xdist_group("reproduce_honest")

TINY = replace(SYNTHETIC, preset="folder", identities=3, actions=2, held_out=1)
CHAIRS = replace(TINY, name="chairs", root="somewhere", paper="chair_cad")
PLAN = Plan(
    None, 1, frames=6, size=32, videos=8, randoms=8, wall=99, words=(*SMALL, "train.steps=3")
)
FACTS = report.Facts("a test", "tiny", "synthetic", "any", "3 steps")


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """Six synthetic videos."""

    def start(module: str, words: list[str], log: Path) -> int:
        return train(words)

    return Context(tmp_path_factory.mktemp("honest"), (TINY,), PLAN, None, "", start)


@pytest.mark.parametrize(
    ("ours", "other", "holds", "why"),
    [
        ([1.0], [9.0], None, verdicts.ONE),
        ([1.0, 1.2], [9.0], None, verdicts.ONE),
        ([1.0, 3.0], [2.9, 2.9], None, verdicts.TIE),
        ([1.0, 3.0], [3.5, 3.5], None, verdicts.TIE),
        ([1.0, 1.1], [3.5, 3.6], True, ""),
        ([3.5, 3.6], [1.0, 1.1], False, ""),
        ([2.0, 2.0], [2.0, 2.0], None, verdicts.TIE),
    ],
)
def test_an_order_needs_more_than_the_spread_of_seeds(
    ours: list[float], other: list[float], holds: bool | None, why: str
) -> None:
    """Of one seed it is not judged, of several that tie not settled; else the mean decides."""
    assert verdicts.lower(ours, other) == (holds, why)
    claim = verdicts.against("t", ours, other, digits=1, cause="c")
    assert claim.holds is holds and claim.cause == ("" if why else "c")
    words = {verdicts.ONE: "not judged", verdicts.TIE: "not settled"}
    assert report.verdict(claim) == words.get(why, report.VERDICTS[holds])


@pytest.mark.parametrize(
    ("margin", "values", "holds"),
    [
        (0.0, [1.0], True),
        (-0.1, [1.0], False),
        (0.5, [1.0, 2.0], None),
        (0.8, [1.0, 2.0], None),
        (9.0, [1.0, 2.0], True),
        (-9.0, [1.0, 2.0], False),
    ],
)
def test_a_threshold_is_judged_unless_seeds_are_further_apart(
    margin: float, values: list[float], holds: bool | None
) -> None:
    """One seed is judged against footage, and said to be one; two settle what a t-test of one
    degree of freedom does, which is little."""
    found, told = verdicts.passed(margin, values)
    assert found is holds
    several = "2 seeds" if holds is not None else verdicts.TIE
    assert told.endswith(verdicts.ONE if len(values) == 1 else several)


def test_learned_and_random_latents_are_judged_by_the_same_rule() -> None:
    """Over two seeds that differ less than the rows do it holds; of one seed neither figure."""
    rows = {
        "+Z": [Figures(4.0, 0.89, None), Figures(4.1, 0.90, None)],
        "-Z": [Figures(5.0, 0.70, None), Figures(5.1, 0.71, None)],
    }
    assert [c.holds for c in random_latents.claims_of(TINY, rows, 0.9)] == [True, True]
    turned = {"+Z": rows["-Z"], "-Z": rows["+Z"]}
    assert [c.holds for c in random_latents.claims_of(TINY, turned, 0.9)] == [False, False]
    once = {name: several[:1] for name, several in rows.items()}
    assert [c.holds for c in random_latents.claims_of(TINY, once, 0.9)] == [None, None]


def test_no_cause_is_made_up() -> None:
    """Where the tables show none, there is none: not even the words that it is not known."""
    still = {BOUND: Figures(None, 0.9, None), FROZEN: Figures(6.0, 1.0, 20.0)}
    found = {name: [Figures(5.5, 0.7, 30.0)] * 3 for name in (*VARIANTS, ablation.OWN)}
    rows = Rows(still, found, found, {n: [9] for n in found}, {}, {})
    claims = verdicts.claims_of(TINY, rows)
    assert not any("not known" in f"{c.cause} {c.detail}" for c in claims)
    moves = [c for c in claims if "below a frozen first frame" in c.text and "full model" in c.text]
    assert len(moves) == 2 and not any(c.holds or c.cause for c in moves)
    assert all("training videos at 30.0 dB; 3 seeds" in c.detail for c in moves)


REFERENCES = {
    BOUND: Figures(None, 0.9, None),
    FROZEN: Figures(6.0, 1.0, 16.0, 0.9, 10.0, 500.0),
    "5x5 blur": Figures(5.0, 0.85, 25.0, 0.5, 900.0, 400.0),
    "noise, sd 8": Figures(3.0, 0.5, 33.0, 0.5, 800.0, 90.0),
}


def test_reference_rows_that_are_better_are_named() -> None:
    """By column, against the mean over seeds; nothing that one of them lacks is compared."""
    ours = [Figures(4.0, 0.86, 30.0, 0.8, 100.0, 100.0), Figures(4.4, 0.94, 31.0, 0.9, 100.0, 90.0)]
    assert figures.ahead(REFERENCES, "full", ours, columns=ablation.COLUMNS) == (
        "Reference rows that are better than full: frozen first frame (VGG Frechet, frames; SSIM), "
        "noise, sd 8 (MCS; VGG Frechet, changes; PSNR)."
    )
    unpaired = [one._replace(psnr=None, ssim=None) for one in ours]
    told = figures.ahead(REFERENCES, "full", unpaired, columns=ablation.COLUMNS)
    assert "PSNR" not in told
    assert figures.ahead(REFERENCES, "full", ours, columns=ablation.RANDOM_COLUMNS) == told
    best = [Figures(1.0, 0.9, 40.0, 0.99, 1.0, 1.0)]
    text = "No reference row is better than full in any column."
    assert figures.ahead(REFERENCES, "full", best, columns=ablation.COLUMNS) == text


def test_tables_name_reference_rows_and_quote_the_paper() -> None:
    """Of the baselines' table both rows of ours are compared, and the paper's MoCoGAN stands beside
    the one trained here; learned latents are compared in theirs."""
    one = [Figures(4.0, 0.86, None)]
    names = (*BASELINES, adversarial.OURS[True], adversarial.FRESH)
    lengths = {name: ([1.0, 2.0], [9, 10]) for name in names}
    lengths["VGAN"] = ([], [5])
    table = adversarial.table_of(CHAIRS, REFERENCES, dict.fromkeys(names, one), lengths, {})
    lines = {row[0]: row for row in table.rows}
    assert table.columns[-2:] == paper.COLUMNS and set(map(len, table.rows)) == {len(table.columns)}
    assert lines["MoCoGAN"][-4:] == ("1.50", "10", 4.11, 0.85)
    assert lines["VGAN"][-4:] == (None, "5", None, None)
    assert lines[adversarial.OURS[True]][-2:] == (3.32, 0.89)
    assert lines[adversarial.FRESH][-2:] == (None, None)
    assert table.note.startswith(paper.NOTE) and table.note.count("noise, sd 8 (MCS") == 2
    latents = random_latents.table_of(TINY, REFERENCES, {"-Z": one, "+Z": one}, {})
    assert "better than +Z: noise, sd 8 (MCS)" in latents.note
    assert all(row[-2:] == (None, None) for row in latents.rows)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([2206675.6], "2207000"),
        ([7869.94], "7870"),
        ([234.567], "234.6"),
        ([0.0123456], "0.01235"),
        ([0.0], "0.000"),
        ([108732.5, 108932.5], "108800 ± 100"),
    ],
)
def test_distances_have_four_significant_digits(values: list[float], text: str) -> None:
    """Their standard deviation is rounded to the same place."""
    assert figures.significant(values) == text and figures.significant([]) is None


def test_columns_without_figures_are_left_out() -> None:
    """In both reports, with what the card says of them; the first column stays, and so does one
    with a single figure."""
    rows = (("x", None, 1.0, None), ("y", None, None, None))
    card = {"MCS": "defined", "PSNR": "so", "videos": "2"}
    table = Table("a table", ("", "MCS", "PSNR, dB", "paper: MCS"), rows, card)
    shown = report.filled(table)
    assert shown.columns == ("", "PSNR, dB") and shown.rows == (("x", 1.0), ("y", None))
    assert shown.card == {"PSNR": "so", "videos": "2"}
    results = {"s": ("title", StageResult((table,)))}
    for text in (report.markdown(results, FACTS), report.html(results, FACTS)):
        assert "MCS: defined" not in text and "paper: MCS" not in text and "PSNR, dB" in text


def test_pictures_are_published_when_small_enough_in_few_colours(tmp_path: Path) -> None:
    """A PNG above the limit whose 256 colours are below it is there; noise is named and left."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    draw = np.random.default_rng(0)
    grey = draw.integers(0, 256, (1200, 1200, 1), dtype=np.uint8).repeat(3, axis=2)
    grey[..., 1] ^= draw.integers(0, 2, (1200, 1200), dtype=np.uint8)
    Image.fromarray(grey).save(folder / "shrinks.png")
    wide = draw.integers(0, 256, (1700, 1700, 3), dtype=np.uint8)
    Image.fromarray(wide).save(folder / "noise.png")
    for name in ("shrinks", "noise"):
        assert (folder / f"{name}.png").stat().st_size > report.LARGEST_PUBLISHED
    shown = tuple(Picture(name, f"pictures/{name}.png") for name in ("shrinks", "noise"))
    results = {"s": ("title", StageResult(pictures=shown))}
    path = report.publish(results, FACTS, out=tmp_path, docs=tmp_path / "docs")
    assert [p.name for p in (tmp_path / "docs/img/results").iterdir()] == ["shrinks.png"]
    assert "in the output folder alone: noise.png" in path.read_text()


@pytest.mark.parametrize(("size", "beyond"), [(99.0, True), (100.0, False)])
def test_a_codec_without_so_small_a_file_is_said_to_have_none(size: float, beyond: bool) -> None:
    """Equal bytes are claimed only where there are equal bytes."""
    codec = [Point("a", 100, 20.0), Point("b", 1000, 40.0)]
    (claim,) = compact.claims_of(TINY, [Point("int8", size, 30.0)], {"JPEG": codec})
    assert claim.holds is True
    assert ("no JPEG of that size exists" in claim.text) is beyond
    assert ("at equal bytes" in claim.text) is not beyond


def test_weights_are_held_against_the_set(context: Context) -> None:
    """Every form's bytes with its share of them, the raw pixels, and a sentence for each case."""
    (table,) = compact.run(context).tables
    run = open_run(trainings.full_model(context, TINY))
    weights = sum(p.numel() for p in run.networks.parameters())
    for name, size, whole, *_ in table.rows[:-1]:
        assert name in coding.FORMS
        assert int(str(whole)) - int(str(size)) == pytest.approx(4 * weights / 6, abs=1)
    assert table.rows[-1][:3] == ("raw pixels", "18432", "18432")
    assert table.note == compact.weights_note(weights, 18432, 6)
    assert "larger than the set itself" in compact.weights_note(1000, 300, 10)
    assert compact.weights_note(1000, 300, 10).endswith("of fewer than 14 videos.")
    assert compact.weights_note(1000, 300, 40).endswith("the weights alone are 33% of the set.")


def test_latents_that_are_not_optimised_do_not_move(context: Context) -> None:
    """After some steps they are the random ones of the beginning, bit by bit, while the networks
    have moved; every distinct pair that training does not show is on the wall, up to its size."""
    made = variant(context, TINY, STILL, 0)
    rows, weights = [], []
    for words in ((), ("train.steps=1",)):
        run = open_run(trainings.trained(context, *made._replace(words=(*made.words, *words))))
        at = torch.arange(6)
        rows.append(run.latents(at, at))
        weights.append(torch.cat([p.flatten() for p in run.networks.parameters()]))
    assert all(torch.equal(a, b) for a, b in zip(*rows, strict=True))
    assert not torch.equal(*weights)
    titles = [picture.title for picture in sheets.run(context).pictures]
    (wall,) = (title for title in titles if "random videos" in title)
    assert wall.startswith("30 random videos of the dictionary, synthetic, all different")
    assert any(title.startswith("Fig. 4 left") for title in titles)


def test_short_budgets_say_what_they_leave_out() -> None:
    """Seeds, random videos, constraints, plots, and Fig. 4 left but for the chairs; `full` leaves
    nothing out, nor is a stage named that was not asked for."""
    real = replace(TINY, name="strips", root="somewhere", paper="weizmann")
    sets = (TINY, CHAIRS, real)

    def left(name: str, stages: dict[str, Stage]) -> str:
        plan = entry.plan_of(planner.BUDGETS[name], sets, Plan(None, 1))
        return entry.left_out_of(plan, stages, sets)

    assert left("30m", STAGES) == (
        "2 of 3 seeds; networks as wide as the presets say; 400 of 500 random videos scored; "
        "interpolation with rho = 2, dictionary and rho = 10, dictionary; unseen footage against "
        "the number of training videos, with its plots; 1,850 of 2,000 steps of fitting unseen "
        "videos; Fig. 4 left of synthetic and strips"
    )
    assert left("2h", STAGES) == (
        "2 of 3 seeds on synthetic footage; networks as wide as the presets say; 300 of 500 random "
        "videos scored; 1,400 of 2,000 steps of fitting unseen videos"
    )
    assert left("30m", {"compact": STAGES["compact"]}).endswith("random videos scored")
    assert left("full", STAGES) == ""
    counts = {f.name: sheets.count(f, entry.plan_of(planner.BUDGETS["30m"], sets, Plan(None, 1)))
              for f in sets}  # fmt: skip
    assert counts == {"synthetic": 0, "chairs": 1, "strips": 0}
    assert sheets.count(TINY, entry.plan_of(planner.BUDGETS["30m"], (TINY,), Plan(None, 1))) == 1


def test_the_head_says_which_stages_trained_how_long(tmp_path: Path) -> None:
    """Minutes by data set, once for all stages that were given as many."""

    def stage(trainings: int, fixed: bool) -> Stage:
        return Stage("t", lambda *_: trainings, lambda _: StageResult(), (0.0, 0.0), fixed)

    stages = {"a": stage(2, True), "b": stage(2, False), "c": stage(1, True), "d": stage(0, True)}
    plan = replace(PLAN, minutes=1.0, shares={"synthetic": 0.5})
    context = Context(tmp_path, (TINY,), plan, None, "", lambda *_: 0)
    pacing = Pacing(context, stages, State(tmp_path), Lives(tmp_path), budget=99)
    for name in stages:
        pacing.run(name)
    assert pacing.lengths() == (
        "minutes of a training by stage (and how many there are): synthetic 0.50 in a (2), c (1); "
        "synthetic 1.00 in b (2)"
    )
    untimed = replace(context, plan=PLAN)
    other = Pacing(untimed, {"a": stages["a"]}, State(tmp_path), Lives(tmp_path), budget=None)
    other.run("a")
    assert other.lengths() == ""


def test_the_head_and_cards_say_which_loss_was_trained(context: Context) -> None:
    """Squared errors beside the paper's pyramid; under Tab. 6 the pyramid itself."""
    squares = "loss.regression=mse where the paper has the Laplacian pyramid"
    assert entry.losses_of(Plan(None, 1), (TINY, CHAIRS)) == [squares]
    told = replace(TINY, preset="weizmann_paper")
    assert entry.losses_of(Plan(None, 1), (told,)) == ["loss.regression=pyramid"]
    (table,) = random_latents.run(context).tables
    assert table.card["loss"] == squares
    assert table.card["training"].endswith(" minutes, 3 steps")


def test_tab_6_says_how_much_it_has_seen(context: Context) -> None:
    """Three steps are a visit that is not complete: its three videos of six, less than one pass."""
    footage = replace(TINY, paper="weizmann")
    result = presets.run(replace(context, sets=(footage,)))
    (table,), (claim,) = result.tables, result.claims
    lines = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    exact, used = lines[presets.EXACT], lines[presets.USED]
    assert exact["videos seen"] == "3 of 6" and exact["passes"] == "0.00"
    assert used["videos seen"] == "6 of 6" and used["passes"] == "1.50"
    assert claim.holds is None and "saw 3 of 6 videos in 3 steps" in claim.detail
    assert f"{presets.USED}: preset folder, networks.channels=8; " in table.card["training"]
    assert table.card["training"].endswith("networks.channels=64")
    assert f"{presets.EXACT}: loss.regression=pyramid" in table.card["loss"]


def test_a_claim_without_figures_of_seeds_keeps_its_word() -> None:
    """`not settled` is for ties alone."""
    assert report.verdict(Claim("t", None, "no feature network was given")) == "not judged"
    assert report.verdict(Claim("t", True, verdicts.TIE)) == "holds"
