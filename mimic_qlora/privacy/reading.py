"""How likely base and adapter find each token of a record: of its answer, and of its chart.

One loaded copy: the base is the model with its adapter switched off. Questions about one chart
share a row, as in training, and logits are computed where a token is scored.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from accelerate.utils import send_to_device
from tqdm import tqdm

from mimic_qlora.llm import chat
from mimic_qlora.privacy.cohort import Patient
from mimic_qlora.processes import entries
from mimic_qlora.prompts.record_files import PromptRecord
from mimic_qlora.step import files
from mimic_qlora.step.errors import UserError
from mimic_qlora.training import packing
from mimic_qlora.training.packing import Sample
from mimic_qlora.validation import answer_cache

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

ANSWER, CHART = "answer", "chart"
LOWEST = 0.2  # share of the tokens that Min-K% looks at
ROOM = 4096  # tokens of a row


@dataclass(frozen=True)
class Reading:
    """Sums over the scored tokens of a part of a record, in nats.

    `lowest` is the mean log probability of the least likely fifth by the adapter. `up` and `down`
    are the probability that the adapter gained and lost against the base, over the tokens that are
    not its first guess.
    """

    n: int
    adapter: float
    base: float
    lowest: float
    up: float
    down: float


Readings = dict[str, Reading]  # by ANSWER and CHART


class Marked(NamedTuple):
    """A record as token ids, and the places of its chart among them."""

    sample: Sample
    chart: range

    def places(self, part: str) -> range:
        """Return the places of a part's tokens; the first token of all is predicted by none."""
        if part == CHART:
            return range(max(1, self.chart.start), self.chart.stop)
        return range(self.sample.n_prompt, len(self.sample.ids))


def marked(tokenizer: "PreTrainedTokenizerBase", record: PromptRecord) -> Marked:
    """Encode a record as in training and find its chart.

    By the tokens of the text up to its beginning and up to its end, since not every tokenizer tells
    offsets truly.
    """
    sample = packing.encode(tokenizer, record.messages, "prompts", record.subject_id)
    text = chat.chat_text(tokenizer, record.messages)
    start, chart = chart_in(tokenizer, text, record)
    whole, before, with_chart = chat.token_ids(
        tokenizer, [text, text[:start], text[: start + len(chart)]]
    )
    first, last = (len(os.path.commonprefix([whole, part])) for part in (before, with_chart))
    return Marked(sample, range(first, min(last, sample.n_prompt)))


def chart_in(
    tokenizer: "PreTrainedTokenizerBase", text: str, record: PromptRecord
) -> tuple[int, str]:
    """Return where the chart stands in a conversation as text, and the chart as written there."""
    chart = chat.neutralise(tokenizer, record.context).strip()
    start = text.find(chart)
    if start < 0 or not chart:
        raise UserError(
            f"the chat template of {tokenizer.name_or_path} rewrites what a chart says, so that "
            "its tokens cannot be told apart: audit an adapter of another instruct model"
        )
    return start, chart


class _Predicted(NamedTuple):
    """For the scored tokens of a sample, in order: log probability, and whether it came first."""

    log_probability: torch.Tensor
    is_first: torch.Tensor


def row_places(row: Sequence[Sample]) -> list[list[int]]:
    """Return for each sample where its tokens stand in the row that `collate` makes."""
    places: list[list[int]] = []
    before, length = None, 0
    for sample in row:
        shared = packing.n_shared(before, sample)
        own = list(range(length, length + len(sample.ids) - shared))
        places.append([*(places[-1][:shared] if places else []), *own])
        before, length = sample, length + len(own)
    return places


def logits_at(model: "PeftModel", row: Sequence[Sample], places: Sequence[int]) -> torch.Tensor:
    """Return the logits at some places of the row that `collate` makes [places, vocabulary]."""
    where = next(model.parameters()).device
    batch: Any = send_to_device(packing.collate(list(row)), where)
    logits: torch.Tensor = model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        logits_to_keep=torch.tensor(places, device=where),
        layout=batch["layout"],
        use_cache=False,
    ).logits
    return logits.squeeze(0)


@torch.no_grad()
def predicted(
    model: "PeftModel", row: Sequence[Sample], wanted: Sequence[Sequence[int]]
) -> list[_Predicted]:
    """Return how likely the model finds the wanted tokens of each sample of a row."""
    places = row_places(row)
    asked = [[here[j - 1] for j in own] for here, own in zip(places, wanted, strict=True)]
    kept = sorted({place for own in asked for place in own})
    rows = {place: number for number, place in enumerate(kept)}
    logits = logits_at(model, row, kept)
    where = logits.device
    found = []
    for sample, own, at in zip(row, wanted, asked, strict=True):
        targets = torch.tensor([sample.ids[j] for j in own], device=where)
        chosen = logits[torch.tensor([rows[place] for place in at], device=where)]
        likely = chosen.float().log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
        found.append(_Predicted(likely.cpu(), (chosen.argmax(-1) == targets).cpu()))
    return found


def _summed(adapter: _Predicted, base: _Predicted) -> Reading:
    n = len(adapter.log_probability)
    if not n:
        return Reading(0, 0.0, 0.0, 0.0, 0.0, 0.0)
    one, two = adapter.log_probability.double(), base.log_probability.double()
    lowest = one.sort().values[: max(1, round(LOWEST * n))].mean()
    gained = (one.exp() - two.exp())[~adapter.is_first]
    up, down = gained.clamp(min=0).sum(), (-gained).clamp(min=0).sum()
    return Reading(n, *(round(float(x), 6) for x in (one.sum(), two.sum(), lowest, up, down)))


def read_row(model: "PeftModel", row: Sequence[Marked]) -> list[Readings]:
    """Read the records of one row by adapter and base."""
    samples = [one.sample for one in row]
    wanted = [[*one.places(CHART), *one.places(ANSWER)] for one in row]
    adapter = predicted(model, samples, wanted)
    with model.disable_adapter():
        base = predicted(model, samples, wanted)
    found = []
    for one, by_adapter, by_base in zip(row, adapter, base, strict=True):
        n = len(one.places(CHART))
        parts = {CHART: slice(None, n), ANSWER: slice(n, None)}
        found.append(
            {
                part: _summed(*(_Predicted(p[0][cut], p[1][cut]) for p in (by_adapter, by_base)))
                for part, cut in parts.items()
            }
        )
    return found


def rows(records: Sequence[Marked]) -> list[list[Marked]]:
    """Put the records of a patient into rows, those that share most of a prompt together."""
    by_ids = {tuple(one.sample.ids): one for one in records}
    return [
        [by_ids[tuple(sample.ids)] for sample in group.samples]
        for group in packing.groups([one.sample for one in by_ids.values()], ROOM)
    ]


def of_patients(
    load: "answer_cache.Load",
    tokenizer: "PreTrainedTokenizerBase",
    patients: Sequence[Patient],
    path: Path,
) -> Iterator[list[Readings]]:
    """Yield the readings of each patient's records, in order, from the cache where it has them.

    `load` returns the model; it is not called when all is cached. A run that was killed goes on.
    """
    done = entries.kept(path)
    for patient in tqdm(patients, "reading", unit="patient", leave=False, disable=None):
        records = [marked(tokenizer, record) for record in patient.records]
        found: dict[tuple[int, ...], Readings] = {}
        for row in rows(records):
            key = files.digest([[list(one.sample.ids), str(one.chart)] for one in row])
            if key not in done:
                made = read_row(load(), row)
                value = [{k: asdict(v) for k, v in one.items()} for one in made]
                done[key] = entries.add(path, {"key": key, "value": value})
            for one, parts in zip(row, done[key]["value"], strict=True):
                found[tuple(one.sample.ids)] = {k: Reading(**v) for k, v in parts.items()}
        yield [found[tuple(one.sample.ids)] for one in records]
