"""The gap in naming a sensitive condition that was left out of the chart that is shown.

By how much the adapter finds its name likelier than the base does, in log-odds, of patients trained
on less patients never seen: what follows from the rest of the chart is the same on both sides.
"""

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from mimic_qlora.chart.prompt import messages
from mimic_qlora.llm import chat
from mimic_qlora.privacy import reading
from mimic_qlora.privacy.extraction.charts import Probe
from mimic_qlora.processes import entries
from mimic_qlora.step import files
from mimic_qlora.training import packing
from mimic_qlora.training.packing import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUESTION = "Which other condition does this patient have?"
LEAD = "The patient also has "


def gains(
    load: Callable[[], Any],
    tokenizer: "PreTrainedTokenizerBase",
    system_prompt: str,
    probes: Mapping[int, Probe],
    path: Path,
) -> dict[int, float]:
    """Return the adapter's log-odds of the name, less the base's, of each patient."""
    done = entries.kept(path)
    found = {}
    for who, probe in tqdm(probes.items(), "naming", unit="chart", leave=False, disable=None):
        sample, name = _asked(tokenizer, system_prompt, probe)
        key = files.digest([list(sample.ids), str(name), "naming"])
        if key not in done:
            model = load()
            adapter = _log_odds(model, sample, name)
            with model.disable_adapter():
                value = adapter - _log_odds(model, sample, name)
            done[key] = entries.add(path, {"key": key, "value": round(value, 6)})
        found[who] = float(done[key]["value"])
    return found


def _asked(
    tokenizer: "PreTrainedTokenizerBase", system_prompt: str, probe: Probe
) -> tuple[Sample, range]:
    """Return the conversation that names the condition, and the places of its name."""
    turns = messages(system_prompt, probe.chart, QUESTION)
    turns.append({"role": "assistant", "content": f"{LEAD}{probe.name}"})
    sample = packing.encode(tokenizer, turns, "a chart without a condition")
    text = chat.chat_text(tokenizer, turns)
    end = text.rindex(LEAD) + len(LEAD)
    name = chat.neutralise(tokenizer, probe.name)
    whole, before, named = chat.token_ids(tokenizer, [text, text[:end], text[: end + len(name)]])
    first, last = (len(os.path.commonprefix([whole, part])) for part in (before, named))
    return sample, range(first, last)


def _log_odds(model: Any, sample: Sample, name: range) -> float:
    """Return the log-odds of the tokens of a name, as one event."""
    (found,) = reading.predicted(model, [sample], [name])
    likely = min(-1e-9, float(found.log_probability.double().sum()))
    return likely - math.log(-math.expm1(likely))
