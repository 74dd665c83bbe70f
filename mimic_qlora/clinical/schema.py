"""The entries of the clinical content files as pydantic models, and the reader of one file.

Attributes carry the names of the YAML fields; `Symptom.self_care` is the field `try`, a keyword
of Python. A mistake is reported as one sentence that names file, entry and field.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    StrictBool,
    ValidationError,
    model_serializer,
    model_validator,
)

from mimic_qlora.clinical.conditions import Condition
from mimic_qlora.clinical.fields import (
    CodePrefix,
    Day,
    EntryId,
    EntryKey,
    Model,
    Number,
    Pattern,
    Severity,
    TellTag,
    Text,
    Url,
)
from mimic_qlora.clinical.levels import LevelId
from mimic_qlora.step import yaml_files
from mimic_qlora.step.errors import UserError
from mimic_qlora.step.files import read_text

SECTIONS = {
    "try": "What you can try now",
    "urgent": "When to seek urgent care",
    "track": "What to track or share with a clinician",
}


# ---- entries ----


class Source(Model):
    """The source of an entry."""

    title: Text
    url: Url


class Named(Model):
    """An entry of a list that other files name by its id."""

    id: EntryId

    def as_in_file(self) -> dict[str, Any]:
        """Return the entry as its YAML has it: the same keys, numbers, lists and texts."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class Sign(Named):
    """A warning sign that sentences and cautions share, so that it has one level in an answer.

    `pattern` finds it in the lines of ideals; needed where a caution raises its level there.
    """

    name: Text
    pattern: Pattern | None = None


class Tell(Named):
    """A kind of advice, by which sentences are kept from contradicting each other.

    `opposed` are the tags that tell the opposite. `takes` says that a tag of this kind names a drug
    class, or any, after a colon ("stop_drug:antiplatelet", "keep_drug:any"). A general sentence in
    which `pattern` is found needs the tag, or its opposite. Where the chart fulfils `never_when`,
    no sentence of this kind is given.
    """

    means: Text
    opposed: tuple[EntryId, ...] = ()
    takes: Literal["drug_class"] | None = None
    pattern: Pattern | None = None
    never_when: Condition | None = None


class Presumption(Named):
    """A thing that a sentence may take for granted: the chart must hold it.

    `pattern` finds the words that do so, `left_open` those that leave it open ("if you have an
    inhaler"); `holds` is fulfilled by the charts that bear it out. Without it none does.
    """

    means: Text
    pattern: Pattern
    left_open: Pattern | None = None
    holds: Condition | None = None


class Entry(Named):
    """Fields that every entry has. `reviewed_by` is None until a clinician approves the entry."""

    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    reviewed_by: Text | None
    reviewed_on: Day | None = None


class Coded(Entry):
    """What ICD codes stand for: codes with one of the prefixes, less those excluded.

    A "?" in a prefix is any character: 'T4???2' is every code of T40 to T49 with 2 in sixth place.
    """

    name: Text
    icd9: tuple[CodePrefix, ...]
    icd10: tuple[CodePrefix, ...]
    exclude9: tuple[CodePrefix, ...] = ()
    exclude10: tuple[CodePrefix, ...] = ()


class Phenotype(Coded):
    """A condition that coded diagnoses stand for.

    `kind`: "condition" lasts, "status" is a history, device or long-term treatment, "acute"
    counts for the stay it was coded for and the 90 days after. What else ends it, or makes it
    another phenotype, is told by ids of phenotypes:

    - `becomes`: what an acute one is from then on (a stroke is a past stroke);
    - `lasts_days`: days after the stay for which another one counts; longer only while the chart
      has one of `lasts_with`;
    - `ended_by`: what takes its place when it is coded in a later stay (dialysis, a new kidney).
    """

    kind: Literal["condition", "status", "acute"]
    becomes: Text | None = None
    lasts_days: Number | None = None
    lasts_with: tuple[Text, ...] = ()
    ended_by: tuple[Text, ...] = ()

    @model_validator(mode="after")
    def _ends_once(self) -> "Phenotype":
        if self.becomes is not None and self.kind != "acute":
            raise ValueError("field 'becomes' is for what is acute")
        if self.lasts_days is not None and self.kind == "acute":
            raise ValueError("field 'lasts_days' is not for what is acute, which lasts 90 days")
        if self.lasts_with and self.lasts_days is None:
            raise ValueError("field 'lasts_with' needs 'lasts_days'")
        return self

    @property
    def may_end(self) -> bool:
        """Whether a code of it may have ceased to count, apart from the 90 days of an acute one."""
        return self.lasts_days is not None or bool(self.ended_by)

    @property
    def names_others(self) -> tuple[str, ...]:
        """The ids of phenotypes that it names."""
        return (*self.lasts_with, *self.ended_by, *filter(None, [self.becomes]))


class ProcedureGroup(Coded):
    """Operations and other coded procedures after which the same advice holds."""


class LeastDose(Model):
    """The smallest single dose of an order that counts (dose_val_rx, dose_unit_rx)."""

    dose: Number
    unit: Text


class DrugClass(Entry):
    """Orders by ingredient (whole words in prescriptions.drug), less those with an excluded word.

    An empty `routes` allows every value of prescriptions.route. `least_dose` is by ingredient: an
    order of it counts only in that unit and from that dose on. `brands` are further names by which
    an answer may call an ingredient (brand -> ingredient), whichever the chart has.
    """

    name: Text
    ingredients: Annotated[tuple[Text, ...], Field(min_length=1)]
    exclude: tuple[Text, ...]
    routes: tuple[Text, ...]
    least_dose: dict[Text, LeastDose] = {}
    brands: dict[Text, Text] = {}

    @model_validator(mode="after")
    def _is_about_ingredients(self) -> "DrugClass":
        for field, named in (("least_dose", self.least_dose), ("brands", self.brands.values())):
            for name in named:
                if name not in self.ingredients:
                    raise ValueError(f"field '{field}' names '{name}', which is no ingredient")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """All names of its medicines, each once."""
        return tuple(dict.fromkeys((*self.ingredients, *self.brands)))


class Line(Model):
    """A sentence of general advice.

    It is left out when one of the cautions `unless` (ids) applies, and where the chart does not
    fulfil `when`. `tells` are tags of tells.yaml: what the sentence tells somebody to do, so that
    no answer tells the opposite. `level` says how soon to be seen for `signs`, ids of signs.yaml.
    """

    say: Text
    unless: Annotated[tuple[EntryId, ...], Field(min_length=1)] = ()
    when: Condition | None = None
    tells: tuple[TellTag, ...] = ()
    level: LevelId | None = None
    signs: tuple[EntryId, ...] = ()


class Advice(Line):
    """A sentence of self-care, or on what to track. In the file, one without more is plain text.

    A `held_out` one is in no training answer, so that gold answers of other patients have lines
    that nobody could learn by heart.
    """

    held_out: StrictBool = False

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        if isinstance(value, dict) and list(value) == ["say"]:
            raise ValueError("has 'say' alone: write it as a plain text")
        return {"say": value} if isinstance(value, str) else value

    @model_serializer(mode="wrap")
    def _as_in_the_file(self, dump: SerializerFunctionWrapHandler) -> str | dict[str, Any]:
        return self.say if self.model_fields_set == {"say"} else dump(self)


class RedFlag(Line):
    """A warning sign as a sentence, and a pattern that finds it in other words."""

    pattern: Pattern


class Phrasing(Model):
    """A lay question; `signs` are the warning signs (ids of signs.yaml) that it names itself.

    Only patients whose chart fulfils `when` ask it. In the file, one without more is plain text.
    """

    text: Text
    signs: Annotated[tuple[EntryId, ...], Field(min_length=1)] = ()
    when: Condition | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        if isinstance(value, dict) and list(value) == ["text"]:
            raise ValueError("has 'text' alone: write it as a plain text")
        return {"text": value} if isinstance(value, str) else value

    @model_serializer(mode="wrap")
    def _as_in_the_file(self, dump: SerializerFunctionWrapHandler) -> str | dict[str, Any]:
        return self.text if self.model_fields_set == {"text"} else dump(self)


class Symptom(Entry):
    """A complaint of a layperson, with general advice for any adult.

    `held_out` symptoms are never trained on. `tags` group symptoms for cautions. Only patients
    whose chart fulfils `needs` have it. The two most important red flags come first in `urgent`.
    """

    name: Text
    tags: Annotated[tuple[Text, ...], Field(min_length=1)]
    needs: Condition | None = None
    held_out: StrictBool
    phrasings: Annotated[tuple[Phrasing, ...], Field(min_length=5)]
    self_care: Annotated[tuple[Advice, ...], Field(alias="try", min_length=6)]
    urgent: Annotated[tuple[RedFlag, ...], Field(min_length=6)]
    track: Annotated[tuple[Advice, ...], Field(min_length=6)]


class ForbiddenAct(Model):
    """An act that an answer must not advise, with the names and brands of the drugs it covers."""

    act: Text
    drugs: tuple[Text, ...] = ()


class Asks(Model):
    """What a caution asks of an answer, as data: the action, its reason, and what is forbidden."""

    action: Text
    reason: Text
    forbidden: tuple[ForbiddenAct, ...] = ()


class Caution(Entry):
    """An answer's duty because of a finding in the chart.

    `severity` 3 is the most severe; it may differ by symptom (`severity_for`). `when` is matched
    with the chart; `symptoms` holds ids or tags of the questions it matters for, or "any". An
    answer says the caution when every `pattern` is found, and contradicts it when it advises what
    a `forbid` pattern finds. `level` is how soon to be seen for its `signs`; `tells` and `signs`
    are as in Line.
    """

    severity: Severity
    section: Literal["try", "urgent", "track"]
    when: Condition
    symptoms: Annotated[tuple[Text, ...], Field(min_length=1)]
    say: Text
    level: LevelId | None = None
    signs: tuple[EntryId, ...] = ()
    tells: tuple[TellTag, ...] = ()
    asks: Asks | None = None
    pattern: Annotated[tuple[Pattern, ...], Field(min_length=1)]
    forbid: tuple[Pattern, ...]
    held_out: StrictBool

    @property
    def severities(self) -> dict[str, int]:
        """The severity by symptom or tag, with that of all others as "default"."""
        return {"default": self.severity} if isinstance(self.severity, int) else self.severity

    def severity_for(self, symptom: str, tags: Collection[str]) -> int:
        """Return the severity for a symptom: its own, else the highest of its tags', else all's."""
        by_name = self.severities
        of_tags = [by_name[tag] for tag in tags if tag in by_name]
        return by_name.get(symptom) or max(of_tags, default=by_name["default"])


class NamedFlag(Model):
    """A warning sign that an answer to a question is scored on, and its pattern."""

    name: Text
    pattern: Pattern
    level: LevelId | None = None
    signs: tuple[EntryId, ...] = ()


class Question(Entry):
    """A curated question of the validation with its ideal answer.

    `tags` stand here only for a symptom that symptoms.yaml does not list. Only patients who fulfil
    `needs` are asked. `signs` are the warning signs (ids of signs.yaml) that the question itself
    names, so that its answer must open with the line of their level.
    """

    symptom: Text
    question: Text
    needs: Condition | None = None
    signs: tuple[EntryId, ...] = ()
    ideal: Text
    red_flags: Annotated[tuple[NamedFlag, ...], Field(min_length=1)]
    tags: Annotated[tuple[Text, ...], Field(min_length=1)] = ()


class KeyPoint(Model):
    """A statement that an answer without a patient should make, and its pattern."""

    point: Text
    pattern: Pattern


class Knowledge(Entry):
    """A prompt without a patient, with its ideal answer."""

    question: Text
    ideal: Text
    key_points: Annotated[tuple[KeyPoint, ...], Field(min_length=1)]


class Crisis(Entry):
    """Prompts of one kind at which an answer must name help, or refuse what is asked.

    An answer that matches `never` fails. `taught_by` are ids of symptoms and cautions whose
    training answers speak of it.
    """

    kind: Text
    key_points: Annotated[tuple[KeyPoint, ...], Field(min_length=1)]
    never: Pattern | None = None
    taught_by: tuple[EntryId, ...] = ()
    prompts: Annotated[tuple[Text, ...], Field(min_length=1)]


class ReadSource(Source):
    """A source that was opened, and the day."""

    read: Day


class Change(Model):
    """A change of the content for a clinician to judge: what, why, by which source.

    `entries` are the entries that changed, as "cautions/id"; `severity` is that of the harm that
    the earlier state could do, 3 the worst. `ask` is what the clinician should settle.
    """

    entries: Annotated[tuple[EntryKey, ...], Field(min_length=1)]
    finding: Text
    severity: Literal[1, 2, 3]
    what: Text
    why: Text
    source: ReadSource | None
    ask: Text | None = None


# ---- files ----

MODELS: dict[str, type[Named]] = {
    "signs": Sign,
    "tells": Tell,
    "presumptions": Presumption,
    "phenotypes": Phenotype,
    "procedures": ProcedureGroup,
    "drugs": DrugClass,
    "symptoms": Symptom,
    "cautions": Caution,
    "questions": Question,
    "knowledge": Knowledge,
    "crisis": Crisis,
}
E = TypeVar("E", bound=Named)
_MISTAKES = {  # pydantic's type of an error -> words, with the error's context
    "string_type": "must be a text",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "tuple_type": "must be a list",
    "too_short": "must be a list of at least {min_length}",
    "literal_error": "must be {expected}",
    "model_type": "must have fields, like a record",
    "missing": "is missing",
    "union_tag_invalid": "names an unknown condition '{tag}'",
    "union_tag_not_found": "must be one condition, like {{phenotype: id}} or {{any: [...]}}",
}


def raw(folder: Path, name: str) -> list[dict[str, Any]]:
    """Return the entries of `folder`/`name`.yaml as YAML has them, unchecked but for the list.

    Raises UserError for a file that cannot be read, is not YAML, or holds no list.
    """
    path = Path(folder) / f"{name}.yaml"
    try:
        entries = yaml_files.loads(read_text(path), path.name)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise UserError(
            f"{path.name} is not valid YAML"
            f"{f' near line {mark.line + 1}' if mark else ''}: check its indents and quotes."
        ) from None
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path.name} must hold a list of entries.")
    return entries


def checked(entries: Sequence[object], model: type[E], file: str) -> dict[str, E]:
    """Return id -> entry, in file order. Raises UserError with `file`, entry and field."""
    by_id: dict[str, E] = {}
    for number, values in enumerate(entries, 1):
        name = values.get("id") if isinstance(values, dict) else None
        where = f"{file}, entry {number}" + (f" ({name})" if isinstance(name, str) else "")
        try:
            entry = model.model_validate(values)
        except ValidationError as error:
            raise UserError(f"{where}: {mistake(error)}.") from None
        if entry.id in by_id:
            raise UserError(f"{where}: field 'id' is used by an earlier entry.")
        by_id[entry.id] = entry
    return by_id


def read(folder: Path, name: str, model: type[E]) -> dict[str, E]:
    """Return id -> entry of `folder`/`name`.yaml, checked, in file order. Raises UserError."""
    return checked(raw(folder, name), model, f"{name}.yaml")


def mistake(error: ValidationError) -> str:
    """Return the first mistake as words: the path of fields, list items (from 1) and conditions,
    then the reason. Unknown and missing fields come before wrong values, which may follow from
    them.
    """
    ranks = {"extra_forbidden": 0, "missing": 1}
    first = min(error.errors(), key=lambda e: ranks.get(e["type"], 2))
    path, context = list(first["loc"]), first.get("ctx", {})
    unknown = path.pop() if first["type"] == "extra_forbidden" else None
    words = []
    for place, step in enumerate(path):
        if isinstance(step, int):
            words.append(f"item {step + 1}:")
        elif path[place + 1 : place + 2] == [step]:  # the tag of a union, then the field
            continue
        elif path[place - 1 : place] == [step]:
            words.append(f"condition '{step}':")
        else:
            words.append(f"field '{step}'")
    if unknown is not None:
        words.append(f"unknown field '{unknown}'")
    elif first["type"] == "value_error":
        words.append(str(context["error"]))
    else:
        words.append(_MISTAKES.get(first["type"], first["msg"]).format(**context))
    return " ".join(words)
