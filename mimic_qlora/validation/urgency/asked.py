"""What is asked of a visit: as in training, and with a part taken away or changed.

Age and sex are known of everybody who arrives, so that they belong to neither the chart nor the
complaint and stay in each control.
"""

import re
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from mimic_qlora.chart import context, prompt, sections
from mimic_qlora.chart.context import Context
from mimic_qlora.llm.chat import Turn
from mimic_qlora.tasks.urgency import task
from mimic_qlora.tasks.urgency.visits import Visit

PERSON = ("Age", "Sex")  # sections of a context
OTHERS = 50  # later visits that are looked at for one of the same sex
# In a complaint or in the name of a chart's item: what tells of one sex alone, or nearly so.
SEX_LINKED = re.compile(
    r"pregnan|gravid|partum|obstet|abortion|miscarr|labou?r\b|deliver|eclampsia|ectopic|gestation|"
    r"vagin|vulv|uter|ovar|cervical cancer|cervix|endometri|menstr|menopaus|gyn|\bob\b|"
    r"breast|mamm|mastectomy|estrogen|estradiol|progest|contracep|tamoxifen|letrozole|anastrozole|"
    r"prostat|psa\b|testic|testos|scrot|penis|penile|erecti|epididym|hydrocele|varicocele|"
    r"tamsulosin|finasteride|sildenafil|tadalafil|hcg\b|turner|klinefelter",
    re.IGNORECASE,
)


class Part(Enum):
    """What a prompt shows of a visit."""

    ALL = "as asked"
    COMPLAINT = "complaint alone"
    CHART = "chart alone"
    OTHER_CHART = "complaint, another patient's chart"
    OTHER_SEX = "sex swapped"


class Shown(NamedTuple):
    """A visit with the context at its arrival and the question, as step 4's prompt has them."""

    visit: Visit
    chart: Context
    question: str


class Content(NamedTuple):
    """What a prompt tells of a visit; without a complaint that is None."""

    chart: Context
    question: str
    complaint: str | None


def is_sex_linked(shown: Shown) -> bool:
    """Return whether complaint or chart tell of one sex alone."""
    items = (item for part in shown.chart.shown.values() for item in part)
    texts = [shown.visit.complaint, *(item.name for item in items)]
    return any(SEX_LINKED.search(text) for text in texts)


def without_chart(chart: Context) -> Context:
    """Return a context with age and sex alone."""
    return with_sections(chart, {name: chart.shown[name] for name in PERSON})


def with_sections(chart: Context, shown: sections.Sections) -> Context:
    """Return a context with these sections, which lacks what was cut from others."""
    cuts = {name: n for name, n in chart.cuts.items() if name in shown}
    return chart._replace(text=context.text_of(shown, cuts), cuts=cuts, shown=shown)


def with_chart_of(chart: Context, other: Context) -> Context:
    """Return a context with age and sex of the one and all else of the other."""
    shown = {**other.shown, **{name: chart.shown[name] for name in PERSON}}
    return with_sections(other, shown)


def with_other_sex(chart: Context) -> Context:
    """Return a context that is the same but for the sex that it states."""
    (item,) = chart.shown["Sex"]
    (other,) = (word for word in sections.SEXES.values() if word != item.value)
    swapped = item._replace(words=other, value=other)
    return with_sections(chart, {**chart.shown, "Sex": [swapped]})


def other_of(place: int, visits: Sequence[Shown]) -> Context:
    """Return the chart of the next patient of the same sex, else of the next one."""
    behind = [*visits[place + 1 :], *visits[:place]][:OTHERS]
    sex = visits[place].visit.sex
    return next((one for one in behind if one.visit.sex == sex), behind[0]).chart


def parts(place: int, visits: Sequence[Shown]) -> dict[Part, Content]:
    """Return what is told of a visit as asked and in each control that it has."""
    visit, chart, question = visits[place]
    whole = Content(chart, question, visit.complaint)
    found = {
        Part.ALL: whole,
        Part.COMPLAINT: whole._replace(chart=without_chart(chart)),
        Part.CHART: Content(chart, task.asked(None), None),
    }
    if len(visits) > 1:
        other = with_chart_of(chart, other_of(place, visits))
        found[Part.OTHER_CHART] = whole._replace(chart=other)
    if not is_sex_linked(visits[place]):
        found[Part.OTHER_SEX] = whole._replace(chart=with_other_sex(chart))
    return found


def turns(system_prompt: str, content: Content) -> list[Turn]:
    """Return the conversation that asks about a visit."""
    return prompt.messages(system_prompt, content.chart.text, content.question)
