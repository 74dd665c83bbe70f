"""YAML that people write, read so that nothing in it is lost or taken for something else.

PyYAML keeps the last of two equal keys and says nothing, which hides an entry. It reads numbers by
YAML 1.1, where 010 is 8 and 1:30 is 90. It writes out aliases of aliases, a page of which can be a
billion values, and its C parser crashes at 100,000 brackets.
"""

import math
import re
from typing import Any

import yaml

from mimic_qlora.step.errors import UserError

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one where it was built
_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)")
_LONGEST = 100  # characters of a whole number
_DEEPEST = 100  # lists and records within one another
_MOST_REPEATED = 100_000  # values that aliases may stand for, all together


class _Unreadable(yaml.MarkedYAMLError):
    """A value that is not of the kind that its form or tag says, like the day 2150-02-30."""


class _Misread(yaml.MarkedYAMLError):
    """A number that YAML takes for another one than a person does."""


class _Twice(yaml.MarkedYAMLError):
    """A key that stands twice in one record."""


class _Strict(_Loader):
    """The safe loader, which takes no record with a key that stands twice."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Return a value. Raises _Unreadable where PyYAML lets an error of Python's through."""
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            reason = str(error).split("\n")[0]
            raise _Unreadable(problem=reason, problem_mark=node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a record. Raises _Twice at the second of two equal keys."""
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                name = (key.tag, key.value)
                if name in seen:
                    raise _Twice(problem=key.value, problem_mark=key.start_mark)
                seen.add(name)
        record: dict[Any, Any] = super().construct_mapping(node, deep)
        return record

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Return a whole number. Raises _Misread where it is not written in decimal digits."""
        if what := misread(node):
            raise _Misread(problem=what, problem_mark=node.start_mark)
        number: int = super().construct_yaml_int(node)
        return number


_Strict.add_constructor("tag:yaml.org,2002:int", _Strict.construct_yaml_int)


def misread(node: yaml.Node) -> str | None:
    """Return what is wrong with a whole number: too long, not in decimal digits; else None."""
    if not node.tag.endswith(":int"):
        return None
    if len(node.value) > _LONGEST:
        return f"has more than {_LONGEST} digits"
    if _DECIMAL.fullmatch(node.value):
        return None
    read_as = yaml.safe_load(node.value)
    return f"is {read_as} to YAML, not {node.value}: write it in digits, with no 0 before them"


def _check_extent(text: str, file: str) -> None:
    """Raise UserError where YAML nests too deep, or its aliases stand for too many values."""
    sizes: dict[str | None, float] = {}  # of each anchor, in values; of an open one inf
    opened: list[tuple[str | None, float]] = []  # anchors of what is open, and values before it
    values = repeated = 0.0
    for event in yaml.parse(text, _Loader):
        assert event.start_mark is not None, "an event of a text has a place"
        where = f"{file}, line {event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent):
            if sizes.get(event.anchor) == math.inf:
                raise UserError(
                    f"{where}: *{event.anchor} stands within what it stands for: write out what is "
                    "needed"
                )
            repeated += sizes.get(event.anchor, 0)
            values += sizes.get(event.anchor, 0)
            if repeated > _MOST_REPEATED:
                raise UserError(
                    f"{where}: aliases (such as *{event.anchor}) stand for more than "
                    f"{_MOST_REPEATED:,} values: write out what is needed"
                )
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, values))
            sizes[event.anchor] = math.inf
            values += 1
            if len(opened) > _DEEPEST:
                raise UserError(
                    f"{where}: more than {_DEEPEST} lists or records stand in one another: write "
                    "it flatter"
                )
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            sizes[anchor] = values - before
        elif isinstance(event, yaml.ScalarEvent):
            sizes[event.anchor] = 1
            values += 1


def compose(text: str, file: str) -> yaml.Node | None:
    """Return the nodes of a YAML text, which know their places in it.

    Raises UserError as `loads` does for what is nested or repeated too much, and yaml.YAMLError.
    """
    try:
        _check_extent(text, file)
    except yaml.YAMLError:
        yaml.compose(text, yaml.SafeLoader)  # whose reasons say more than those of the C parser
        raise
    node: yaml.Node | None = yaml.compose(text, _Loader)
    return node


def loads(text: str, file: str) -> Any:
    """Return what the YAML text of a file says.

    Raises UserError, with `file` and line, where a key stands twice in one record, a value is
    misread or unreadable, or too much is nested or repeated, and yaml.YAMLError where it is no
    YAML.
    """
    _check_extent(text, file)
    try:
        return yaml.load(text, _Strict)
    except (_Misread, _Unreadable) as error:
        assert error.problem_mark is not None, "it was raised with one"
        what = "a number" if isinstance(error, _Misread) else "a value cannot be read:"
        line = error.problem_mark.line + 1
        raise UserError(f"{file}, line {line}: {what} {error.problem}") from None
    except _Twice as error:
        assert error.problem_mark is not None, "it was raised with one"
        raise UserError(
            f"{file}: the key '{error.problem}' stands twice in one record (line "
            f"{error.problem_mark.line + 1}), and only one of them would count: keep one."
        ) from None
