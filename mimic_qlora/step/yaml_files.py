"""YAML that people write, read so that nothing in it is lost: a key stands once in a record.

PyYAML keeps the last of two equal keys and says nothing, which hides an entry.
"""

from typing import Any

import yaml

from mimic_qlora.step.errors import UserError

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one where it was built


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


def loads(text: str, file: str) -> Any:
    """Return what the YAML text of a file says.

    Raises UserError, with `file`, line and key, where a key stands twice in one record, and
    yaml.YAMLError where it is no YAML.
    """
    try:
        return yaml.load(text, _Strict)
    except _Twice as error:
        assert error.problem_mark is not None, "it was raised with one"
        raise UserError(
            f"{file}: the key '{error.problem}' stands twice in one record (line "
            f"{error.problem_mark.line + 1}), and only one of them would count: keep one."
        ) from None
