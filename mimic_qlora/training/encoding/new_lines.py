"""Which lines of validation answers stand in no training answer.

Most gold lines are sentences of the content files and stand in both: an adapter that has learned
them by heart predicts them well. What it has learned beyond shows on the other lines.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from mimic_qlora.training.packing import Sample, Split

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Line = tuple[int, ...]  # token ids, with that of its line break


def mark(samples: Split, tokenizer: "PreTrainedTokenizerBase") -> Split:
    """Return the samples, those of validation with their new lines marked."""
    breaks = frozenset(
        place for token, place in tokenizer.get_vocab().items() if _breaks(tokenizer, token)
    )
    texts: dict[Line, str] = {}  # the same lines come again and again

    def text(line: Line) -> str:
        if line not in texts:
            texts[line] = tokenizer.decode(line, skip_special_tokens=True).strip()
        return texts[line]

    known = {text(line) for line in _all_lines(samples["train"], breaks)}
    marked = []
    for sample in samples["validation"]:
        new: list[bool] = []
        n_bytes = 0
        for line in lines(sample, breaks):
            is_new = text(line) not in known
            new += [is_new] * len(line)
            n_bytes += len(text(line).encode()) if is_new else 0
        marked.append(sample._replace(new=bytes(new), n_new_bytes=n_bytes))
    return {**samples, "validation": marked}


def _breaks(tokenizer: "PreTrainedTokenizerBase", token: str) -> bool:
    """Return whether a token of the vocabulary holds a line break."""
    return "\n" in tokenizer.convert_tokens_to_string([token])


def lines(sample: Sample, breaks: frozenset[int]) -> Iterator[Line]:
    """Yield the lines of an answer; the last one has the end token."""
    line: list[int] = []
    for token in sample.ids[sample.n_prompt :]:
        line.append(token)
        if token in breaks:
            yield tuple(line)
            line = []
    if line:
        yield tuple(line)


def _all_lines(samples: Iterable[Sample], breaks: frozenset[int]) -> set[Line]:
    return {line for sample in samples for line in lines(sample, breaks)}
