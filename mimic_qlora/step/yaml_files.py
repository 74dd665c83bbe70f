"""YAML that people write, read so that nothing in it is lost or taken for something else.

PyYAML keeps the last of two equal keys and says nothing, which hides an entry. It reads numbers by
YAML 1.1, where 010 is 8 and 1:30 is 90.
"""

import re
from typing import Any

import yaml

from mimic_qlora.step.errors import UserError

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one where it was built
_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)")


class _Misread(yaml.MarkedYAMLError):
    """A number that YAML takes for another one than a person does."""


class _Twice(yaml.MarkedYAMLError):
    """A key that stands twice in one record."""


class _Strict(_Loader):
    """The safe loader, which takes no record with a key that stands twice."""

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
    """Return what is wrong with a whole number that is not written in decimal digits, or None."""
    if not node.tag.endswith(":int") or _DECIMAL.fullmatch(node.value):
        return None
    read_as = yaml.safe_load(node.value)
    return f"is {read_as} to YAML, not {node.value}: write it in digits, with no 0 before them"


def loads(text: str, file: str) -> Any:
    """Return what the YAML text of a file says.

    Raises UserError, with `file` and line, where a key stands twice in one record or a number is
    misread, and yaml.YAMLError where it is no YAML.
    """
    try:
        return yaml.load(text, _Strict)
    except _Misread as error:
        assert error.problem_mark is not None, "it was raised with one"
        line = error.problem_mark.line + 1
        raise UserError(f"{file}, line {line}: a number {error.problem}") from None
    except _Twice as error:
        assert error.problem_mark is not None, "it was raised with one"
        raise UserError(
            f"{file}: the key '{error.problem}' stands twice in one record (line "
            f"{error.problem_mark.line + 1}), and only one of them would count: keep one."
        ) from None
