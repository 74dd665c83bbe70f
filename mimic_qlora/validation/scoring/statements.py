"""What an answer tells of its patient, against what the context bears out.

A statement is a condition, a medicine, an operation, a result or a stay told of this patient. Its
words are the names of the clinical content; how it is told stands in words/statements.yaml.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache
from typing import NamedTuple

from mimic_qlora.clinical import conditions, content, phrases
from mimic_qlora.clinical.schema import Caution
from mimic_qlora.validation.scoring import advice, patterns
from mimic_qlora.validation.scoring.known import Known

KINDS = ("of_result", "of_record", "of_you", "yours")  # lists of words/statements.yaml
_ITEM = re.compile(r"\s*(?:[-*•]|\d+[.)]|[a-z][.)])\s")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
# words of a name that tell nothing by themselves
_EMPTY = frozenset(
    "a an the of in on with from for by to at or and your my past recent recently latest new long "
    "term use was were is be ordered last stay during another other own like both".split()
)
_OF_RESULTS = frozenset(
    "level levels count test tests result results reading value your a the of".split()
)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_SIDE = re.compile(r"\b(?:high|low)\b", re.IGNORECASE)
_LONG = 7  # letters of a word that is matched by its stem
_FAMILY = 4  # a class of at most so many names is one medicine with its brands
_WORD = re.compile(r"[\w’']+")
_REASON = re.compile(
    r"^Because (?:your record (?:lists|shows)|your latest|you are)? ?"
    r"(.+?)(?: (?:was|were)(?: both)? ordered during your last stay)?$"
)


class Claim(NamedTuple):
    """A statement about the patient: how it is told (of KINDS), of what, and what a result was.

    `because` says that it is given as the reason of something.
    """

    kind: str
    of: str
    found: str
    because: bool


class Finding(NamedTuple):
    """A name of a finding as a pattern, and the keys of the entries that bear it out.

    `same` finds it by any of its names: a medicine by its brands too.
    """

    pattern: re.Pattern[str]
    keys: frozenset[str]
    same: re.Pattern[str]


def of_patient(answer: str) -> Iterator[Claim]:
    """Yield what an answer tells of its patient.

    "You have a seizure" in a list stands under an "if", and tells nothing.
    """
    for sentence in filter(None, _SENTENCE.split(advice.squeezed(answer))):
        results: set[int] = set()  # what is told as a result is not told once more as "yours"
        for kind in KINDS:
            for match in (m for each in _each(kind) for m in each.finditer(sentence)):
                if kind == "of_result":
                    results.add(match.start())
                elif match.start() in results:
                    continue
                before = sentence[: match.start()]
                because = bool(patterns.pattern("statements", "because").search(before))
                left_open = patterns.pattern("statements", "open").search(before)
                item = kind == "of_you" and _ITEM.match(sentence)
                if because or kind == "yours" or not (left_open or item):
                    found = match.groupdict().get("found") or ""
                    yield Claim(kind, match["claim"], found, because)


def false(answer: str, question: str, known: Known) -> list[str]:
    """Return what an answer tells of its patient and the context does not bear out, in its words.

    What the question says itself, and what the rules that the chart calls for say, is borne out.
    """
    says = [rule.say for rule in known.rules]
    borne_out = [item.casefold() for item in (*known.items, question, *says)]
    found: dict[str, None] = {}
    for claim in of_patient(answer):
        if not patterns.pattern("statements", "denied").search(claim.of):
            found |= dict.fromkeys(_unfounded(claim, borne_out, known.holds))
    if not any("limit" in line for line in says):
        limits = patterns.pattern("statements", "limits").finditer(answer)
        found |= dict.fromkeys(match[0] for match in limits)
    return list(found)


def names_reason(rule: Caution, text: str) -> bool:
    """Return whether a text names the reason of a caution: the finding in the chart."""
    return any(finding.pattern.search(text) for finding in _reasons_of(rule.id))


def gives_reason(text: str) -> bool:
    """Return whether a text gives something of the patient as the reason of what it says."""
    return any(claim.because or claim.kind == "of_record" for claim in of_patient(text))


def _unfounded(claim: Claim, borne_out: Sequence[str], holds: frozenset[str]) -> Iterator[str]:
    """Yield the findings that a claim names and nothing bears out, as the claim names them."""
    told = f"{claim.of} {claim.found}".strip(" .!?").casefold()
    spans = _named(told, claim.kind)
    if claim.kind == "of_result":
        if not _is_shown(claim, borne_out) and not any(f.keys & holds for _, f in spans):
            yield told
        return
    for span in dict.fromkeys(span for span, _ in spans):
        if not any(
            finding.keys & holds or any(finding.same.search(item) for item in borne_out)
            for other, finding in spans
            if other == span
        ):
            yield told[slice(*span)].strip()


@lru_cache(maxsize=20_000)
def _named(told: str, kind: str) -> list[tuple[tuple[int, int], Finding]]:
    """Return the findings named, each with its place, of names that hold each other the longest."""
    spans = [
        (match.span(), finding)
        for finding in _findings()
        for match in finding.pattern.finditer(told)
        if not (kind == "yours" and told[: match.start()].count(" ") > 1)
        and not patterns.pattern("statements", "not_a_finding").search(told[match.end() :])
    ]
    return [
        (span, finding)
        for span, finding in spans
        if not any(a <= span[0] and span[1] <= b and (a, b) != span for (a, b), _ in spans)
    ]


def _is_shown(claim: Claim, borne_out: Sequence[str]) -> bool:
    """Return whether the context shows a result that is told, with its value or its direction."""
    of = [word for word in _words(claim.of) if word not in _OF_RESULTS]
    named = [item for item in borne_out if of and all(word in item for word in of)]
    value = [m[0] for m in (*_NUMBER.finditer(claim.found), *_SIDE.finditer(claim.found))]
    return any(all(re.search(rf"\b{v}\b", item, re.I) for v in value) for item in named)


@cache
def _each(kind: str) -> list[re.Pattern[str]]:
    return [re.compile(pattern, re.IGNORECASE) for pattern in patterns.lists("statements")[kind]]


@cache
def _findings() -> tuple[Finding, ...]:
    """Return every name of a finding that the clinical content has."""
    names: dict[str, set[str]] = defaultdict(set)
    clinical = content.load()
    for phenotype in clinical.phenotypes.values():
        for name in _names(phenotype.name):
            names[name].add(f"phenotypes/{phenotype.id}")
    for procedure in clinical.procedures.values():
        names[procedure.name].add(f"procedures/{procedure.id}")
    for drug in clinical.drugs.values():
        for name in _names(drug.name):
            names[name].add(f"drugs/{drug.id}")
        for medicine in drug.names:
            family = {f"drugs/{drug.id}"} if len(drug.ingredients) <= _FAMILY else set()
            names[medicine] |= family
    for rule in clinical.cautions.values():
        for name in _reason_names(rule):
            names[name] |= _keys(rule)
    by_pattern: dict[str, set[str]] = defaultdict(set)
    for name, keys in names.items():
        if pattern := _pattern(name):
            by_pattern[pattern] |= keys
    same = _names_of_medicines()
    return tuple(
        Finding(
            re.compile(pattern, re.IGNORECASE),
            frozenset(keys),
            re.compile("|".join(sorted({pattern} | same[pattern])), re.IGNORECASE),
        )
        for pattern, keys in by_pattern.items()
    )


def _names_of_medicines() -> dict[str, set[str]]:
    """Return for the name of a medicine, as a pattern, its other names: brand or ingredient."""
    same: dict[str, set[str]] = defaultdict(set)
    for drug in content.load().drugs.values():
        for pair in drug.brands.items():
            brand, ingredient = map(_pattern, pair)
            same[brand].add(ingredient)
            same[ingredient].add(brand)
    return same


@lru_cache(maxsize=1024)
def _reasons_of(rule_id: str) -> tuple[Finding, ...]:
    """Return the names of the reason of a caution, and of the findings that its chart may have."""
    clinical = content.load()
    rule = clinical.cautions[rule_id]
    keys = _keys(rule) | {*keys_of(rule)}
    drugs = [drug for name, drug in clinical.drugs.items() if f"drugs/{name}" in keys]
    ingredients = {_pattern(name) for drug in drugs for name in drug.names}
    own = {_pattern(name) for name in _reason_names(rule)}
    return tuple(
        finding
        for finding in _findings()
        if finding.keys & keys or finding.pattern.pattern in ingredients | own
    )


def keys_of(rule: Caution) -> Iterator[str]:
    """Yield the keys of the findings that a rule looks for; results have none."""
    for leaf in conditions.leaves(rule.when, negated=False):
        if isinstance(leaf, conditions.HasPhenotype):
            yield f"phenotypes/{leaf.phenotype}"
        elif isinstance(leaf, conditions.HasDrug):
            yield f"drugs/{leaf.drug_class}"
        elif isinstance(leaf, conditions.HasHomeDrug):
            yield f"drugs/{leaf.home_drug_class}"
        elif isinstance(leaf, conditions.HadProcedure):
            yield f"procedures/{leaf.procedure.group}"


def _keys(rule: Caution) -> set[str]:
    """Return the keys that bear out the reason of a rule: itself, and of alternatives each one."""
    parts = rule.when.parts if isinstance(rule.when, conditions.AnyOf) else (rule.when,)
    lone = conditions.HasPhenotype | conditions.HasDrug | conditions.HasHomeDrug
    single = all(isinstance(part, lone) for part in parts)
    alone = {*keys_of(rule)} if single else set()
    return {f"cautions/{rule.id}", f"reasons/{rule.id}"} | alone


def _reason_names(rule: Caution) -> Iterable[str]:
    """Return the reason of a rule in its words: those of its sentence, and of its field `asks`."""
    found = _REASON.match(phrases.halves_of(rule).reason)
    said = [found[1]] if found else []
    asked = [rule.asks.reason] if rule.asks else []
    return [*said, *(re.sub(r" ordered in the last stay$", "", name) for name in asked)]


def _names(name: str) -> Iterator[str]:
    """Yield a name of the content without its bracket, what the bracket says, and alternatives."""
    outer, _, inner = name.partition(" (")
    for part in filter(None, (outer, inner.rstrip(")"))):
        yield part
        left, joined, right = part.partition(" or ")
        words = [[w for w in _words(half) if w not in _EMPTY] for half in (left, right)]
        if joined and all(len(half) > 1 for half in words):
            yield left
            yield right


def _words(name: str) -> list[str]:
    return _WORD.findall(name.casefold().replace("-", " "))


def _pattern(name: str) -> str:
    """Return a pattern that finds a name: its words in order, at most two others in between.

    A direction may follow: "potassium was high" for "high potassium".
    """
    words = [word for word in _words(name) if word not in _EMPTY]
    stems = [_stem(word) for word in words]
    if not stems:
        return ""
    gap = r"[\s,’'-]+(?:[\w’']+[\s,-]+){0,2}"
    found = [gap.join(stems)]
    if words[0] in ("high", "low") and len(words) > 1:
        found.append(rf"{gap.join(stems[1:])}\b[^;\n]{{0,40}}?\b{words[0]}")
    return rf"\b(?:{'|'.join(found)})\b"


def _stem(word: str) -> str:
    """Return a pattern of a word and its other forms: diabetes and diabetic, clot and clots."""
    if len(word) < _LONG:
        return rf"{re.escape(word.removesuffix('s') if len(word) > 3 else word)}(?:tic|e?s|['’]s)?"
    return rf"{re.escape(word[: max(5, len(word) - 3)])}\w{{0,4}}"
