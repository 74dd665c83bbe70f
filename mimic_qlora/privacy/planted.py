"""What an adapter has kept of the canaries: exposure of each secret, and a bound of epsilon."""

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from scipy import stats
from tqdm import tqdm

from mimic_qlora.llm import chat
from mimic_qlora.privacy import epsilon, exposure, reading
from mimic_qlora.privacy.epsilon import Epsilon
from mimic_qlora.privacy.exposure import Exposure
from mimic_qlora.privacy.rule import Criterion, Limits
from mimic_qlora.privacy.separation import Floats
from mimic_qlora.processes import entries
from mimic_qlora.step import files
from mimic_qlora.step.errors import UserError
from mimic_qlora.training.memorisation import canaries
from mimic_qlora.training.memorisation.canaries import DOSES, Canary
from mimic_qlora.training.packing import Sample

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

SECRETS = {"code": "the secret in the answer", "serial": "the secret in the chart alone"}
Ids = tuple[int, ...]


@dataclass(frozen=True)
class Planted:
    """The exposures by secret and records in training (0, 1, 10), and epsilon by dose.

    `uniform_p` tests that the ranks of canaries that were never put in are all as likely.
    """

    exposures: dict[tuple[str, int], Floats]
    epsilons: dict[int, Epsilon]
    uniform_p: dict[str, float]

    def criteria(self, limits: Limits) -> list[Criterion]:
        """Return what the rule looks at: the secrets of canaries that stood in one record."""
        made = []
        for secret, what in SECRETS.items():
            one: Exposure = exposure.mean(self.exposures[secret, 1])
            name = f"exposure of {what}, bits"
            bounds = (one.mean, one.low, one.high, one.upper, one.p)
            made.append(Criterion(name, "exposure", *bounds, exposure.NULL, limits.exposure))
        return made


class Asked(NamedTuple):
    """The tokens that come before a secret, those of each candidate, and which one is true."""

    first: Ids
    ends: list[Ids]
    true: int


def ask(tokenizer: "PreTrainedTokenizerBase", canary: Canary, secret: str) -> Asked:
    """Encode the candidates for a secret.

    Raises UserError for a tokenizer by which they hang on what stands far before.
    """
    before, value = canaries.text_before(tokenizer, canary, secret)
    tail = before[before.rindex(" ", 0, len(before) - 1) :]
    short = chat.token_ids(tokenizer, [tail + other for other in canaries.SECRETS])
    n_same = len(os.path.commonprefix(short))
    ends = [tuple(ids[n_same:]) for ids in short]
    whole = chat.token_ids(tokenizer, [before + value, before + canaries.SECRETS[0]])
    true = canaries.SECRETS.index(value)
    first = tuple(whole[0][: len(whole[0]) - len(ends[true])])
    if tuple(whole[0]) != first + ends[true] or tuple(whole[1]) != first + ends[0]:
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path} joins a number with what stands before it, "
            "so that no secret can be ranked: audit another model with --canaries"
        )
    return Asked(first, ends, true)


@torch.no_grad()
def likelihoods(model: "PeftModel", asked: Sequence[Asked]) -> list[Floats]:
    """Return the log probability of each candidate of each secret, all in one row."""
    parents = [sorted({end[:-1] for end in one.ends}) for one in asked]
    row = [
        Sample(list(one.first + parent), len(one.first) + len(parent))
        for one, own in zip(asked, parents, strict=True)
        for parent in own
    ]
    places = iter(reading.row_places(row))
    nodes = [
        {
            parent[:n]: here[len(one.first) + n - 1]
            for parent, here in zip(own, itertools.islice(places, len(own)), strict=True)
            for n in range(len(parent) + 1)
        }
        for one, own in zip(asked, parents, strict=True)
    ]
    kept = sorted({place for own in nodes for place in own.values()})
    likely = reading.logits_at(model, row, kept).float().log_softmax(-1)
    at = {place: number for number, place in enumerate(kept)}
    return [
        _totals(likely, one.ends, {ids: at[place] for ids, place in own.items()})
        for one, own in zip(asked, nodes, strict=True)
    ]


def _totals(likely: torch.Tensor, ends: Sequence[Ids], at: Mapping[Ids, int]) -> Floats:
    """Sum the log probabilities of each end; `at` is the place of what comes before a token."""
    totals = np.zeros(len(ends))
    for n in range(max(map(len, ends))):
        which = [i for i, end in enumerate(ends) if len(end) > n]
        rows = torch.tensor([at[ends[i][:n]] for i in which], device=likely.device)
        tokens = torch.tensor([ends[i][n] for i in which], device=likely.device)
        totals[which] += likely[rows, tokens].double().cpu().numpy()
    return totals


def _gains(model: "PeftModel", asked: Sequence[Asked]) -> list[Floats]:
    """Return by how much the adapter finds each candidate likelier; the true one comes first."""
    adapter = likelihoods(model, asked)
    with model.disable_adapter():
        base = likelihoods(model, asked)
    gains = [one - other for one, other in zip(adapter, base, strict=True)]
    return [
        np.concatenate([gain[[one.true]], np.delete(gain, one.true)])
        for one, gain in zip(asked, gains, strict=True)
    ]


def read(
    load: Callable[[], Any],
    tokenizer: "PreTrainedTokenizerBase",
    found: Sequence[Canary],
    path: Path,
) -> dict[str, Floats]:
    """Return the exposure and the gain of each canary's secrets [canaries, 2], from the cache."""
    done = entries.kept(path)
    made: dict[str, list[list[float]]] = {secret: [] for secret in SECRETS}
    for canary in tqdm(found, "canaries", unit="canary", leave=False, disable=None):
        key = files.digest([canary.messages, "canary"])
        if key not in done:
            gains = _gains(load(), [ask(tokenizer, canary, secret) for secret in SECRETS])
            value = [[float(exposure.exposures(gain[None])[0]), gain[0]] for gain in gains]
            done[key] = entries.add(path, {"key": key, "value": value})
        for secret, pair in zip(SECRETS, done[key]["value"], strict=True):
            made[secret].append(pair)
    return {secret: np.array(values) for secret, values in made.items()}


def conclude(found: Sequence[Canary], values: dict[str, Floats]) -> Planted:
    """Sort the exposures by records in training, and bound epsilon for each dose."""
    is_in = np.array([canary.is_in for canary in found])
    dose = np.array([canary.dose for canary in found])
    n_records = np.where(is_in, dose, 0)
    exposures = {
        (secret, n): values[secret][n_records == n, 0] for secret in SECRETS for n in (0, *DOSES)
    }
    epsilons = {n: epsilon.bound(values["code"][dose == n, 1], is_in[dose == n]) for n in DOSES}
    ranks = {secret: 2 ** -exposures[secret, 0] for secret in SECRETS}
    uniform = {secret: float(stats.kstest(r, "uniform").pvalue) for secret, r in ranks.items()}
    return Planted(exposures, epsilons, uniform)
