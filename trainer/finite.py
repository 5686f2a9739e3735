"""Nothing that is not finite reaches the weights: a check of all ranks before every update.

`all_finite` is what a step pays. Only when it says no, `stop` looks for what is to blame, writes
what it takes to compute the step again into `nonfinite/step-N/`, and raises on every rank.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch

from trainer.comm import Comm
from trainer.commit import sync_folder, write_durable
from trainer.leaving import NonFinite
from trainer.streamed import serialise

FOLDER = "nonfinite"
NAMED = 8
"""Tensors and clips that the message names at most, per rank; the files have all of them."""


class Evidence(NamedTuple):
    """What one rank can say about a step. `rows` and `batch` tensors begin with the clips, B."""

    terms: Mapping[str, torch.Tensor]
    """Scalars: total, rec, static, triplet."""
    gradients: Mapping[str, torch.Tensor]
    """By parameter."""
    rows: Mapping[str, torch.Tensor]
    """Latents and their gradients: static, transient, static.grad, ..."""
    batch: Mapping[str, torch.Tensor]
    """Whatever replays the step beside the latents: frames, clip and slot numbers, frames drawn."""
    clips: Sequence[str] = ()
    """Key of each clip."""
    weights: Mapping[str, torch.Tensor] = {}
    """Networks, equal on all ranks; rank 0 writes them."""


def all_finite(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """0-dim bool on the tensors' device: no element is infinite or NaN. No synchronisation."""
    flat = [tensor.detach() for tensor in tensors if tensor.numel() and tensor.is_floating_point()]
    if not flat:
        return torch.tensor(True)
    norms = torch._foreach_norm(flat, ord=float("inf"))  # pyright: ignore[reportPrivateImportUsage]
    return torch.stack([norm.to(torch.float64) for norm in norms]).isfinite().all()


def check(
    step: int,
    evidence: Evidence,
    *,
    comm: Comm,
    folder: Path,
    state: Mapping[str, Any],
) -> None:
    """Raise on every rank if anything of any rank is not finite.

    Raises:
        NonFinite: naming step, ranks, terms, tensors and clips.
    """
    mine = (evidence.terms, evidence.gradients, evidence.rows)
    bad = ~all_finite(tensor for group in mine for tensor in group.values())
    if int(comm.max_(bad.to("cpu", torch.int64).reshape(1))):
        stop(step, evidence, comm=comm, folder=folder, state=state)


def stop(
    step: int,
    evidence: Evidence,
    *,
    comm: Comm,
    folder: Path,
    state: Mapping[str, Any],
) -> NoReturn:
    """All ranks together: find the blame, write the evidence, raise `NonFinite`."""
    findings = {"rank": comm.rank, **blame(evidence)}
    where = folder / FOLDER / f"step-{step:08d}"
    failure = ""
    try:
        _write(where, evidence, {"step": step, "world": comm.world, **state, **findings}, comm.rank)
    except OSError as error:
        failure = f"; the step could not be written for replay: {error}"
    everyone = comm.gather_json({**findings, "failure": failure})
    told = [_tell(found) for found in everyone if _any(found)] or ["norms that overflow"]
    failure = next((found["failure"] for found in everyone if found["failure"]), "")
    raise NonFinite(
        f"step {step} is not finite: {'; '.join(told)}; nothing was updated; "
        f"replay it from {where}{failure}"
    )


def blame(evidence: Evidence) -> dict[str, list[str]]:
    """Names of the terms, gradients, rows and clips that are not finite."""
    clips = set()
    for tensor in evidence.rows.values():
        if tensor.is_floating_point() and tensor.ndim:
            bad_B = ~tensor.detach().flatten(1).isfinite().all(dim=1)
            clips |= set(bad_B.nonzero().flatten().tolist())
    known = evidence.clips
    return {
        "terms": _bad(evidence.terms),
        "gradients": _bad(evidence.gradients),
        "rows": _bad(evidence.rows),
        "clips": [str(known[b]) if b < len(known) else f"slot {b}" for b in sorted(clips)],
    }


def _bad(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    return [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not bool(tensor.detach().isfinite().all())
    ]


def _any(found: Mapping[str, Any]) -> bool:
    return any(found[kind] for kind in ("terms", "gradients", "rows"))


def _tell(found: Mapping[str, Any]) -> str:
    parts = []
    for kind in ("terms", "gradients", "rows", "clips"):
        names = found[kind]
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            parts.append(f"{kind} {', '.join(names[:NAMED])}{more}")
    return f"rank {found['rank']}: {', '.join(parts)}"


def _write(where: Path, evidence: Evidence, state: Mapping[str, Any], rank: int) -> None:
    where.mkdir(parents=True, exist_ok=True)
    tensors = {
        **{f"batch.{name}": t for name, t in evidence.batch.items()},
        **{f"rows.{name}": t for name, t in evidence.rows.items()},
        **{f"terms.{name}": t for name, t in evidence.terms.items()},
    }
    files = {f"rank-{rank}.safetensors": serialise({k: t.clone() for k, t in tensors.items()})}
    files[f"rank-{rank}.json"] = (json.dumps(dict(state), indent=1) + "\n").encode()
    if rank == 0 and evidence.weights:
        files["weights.safetensors"] = serialise(evidence.weights)
    for name, data in files.items():
        (where / name).unlink(missing_ok=True)
        write_durable(where / name, data)
    sync_folder(where)
