"""Text of charts and models as a terminal may show it: inert, on one line, within a width."""

from mimic_qlora.step.plain_text import inline, printable
from mimic_qlora.step.terminal import columns

__all__ = ["columns", "counted", "folded", "inline", "name_of", "one_line", "printable"]


# short names that are no words
ACRONYMS = {
    name.lower(): name
    for name in (
        "ACE ARB CKD COPD eGFR GLP1 H2 HIV ICD INR MAOI NSAID P2Y12 PDE5 PPI QT SGLT2 SNRI SSRI TIA"
    ).split()
}


def name_of(identifier: str) -> str:
    """Return an identifier as a name for people: "inr_high" is "INR high"."""
    words = [ACRONYMS.get(word, word) for word in identifier.split("_")]
    name = " ".join(words)
    return name if words[0] in ACRONYMS.values() else name[:1].upper() + name[1:]


def folded(text: str) -> str:
    """Return the printable text as one line, with single spaces between the words."""
    return " ".join(inline(text).split())


def one_line(text: str, width: int) -> str:
    """Return the text in quotation marks on one line, cut to `width` terminal columns."""
    text = folded(text)
    room, kept = width - 2, ""
    if columns(text) > room:
        for character in text:
            if columns(kept + character) > room - 1:
                break
            kept += character
        text = kept.rstrip() + "…"
    return f'"{text}"'


def counted(n: int, noun: str) -> str:
    """Return a number of things: "1 trial", "2,000 trials"."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def size(n_bytes: float) -> str:
    """Return a number of bytes as people read it: "4.2 MB"."""
    amount, unit = float(n_bytes), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if amount >= 10 or unit == "B" else f"{amount:.1f} {unit}"
