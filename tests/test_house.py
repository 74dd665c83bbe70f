"""The layout of the code: what the folder list promises holds, and functions fit a screen."""

import ast
import re
import subprocess
from functools import cache

import pytest

from helpers.paths import ROOT

LIBRARY = ROOT / "mimic_qlora"
SCRIPTS = sorted(ROOT.glob("*.py"))
CODE = sorted([*LIBRARY.rglob("*.py"), *SCRIPTS, *(ROOT / "run_files").glob("*.py")])
TESTS = sorted((ROOT / "tests").rglob("*.py"))
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def functions() -> dict:
    """Every function of the code by its place and name."""
    return {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": node
        for path in CODE
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, FUNCTION)
    }


def n_parameters(node) -> int:
    names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def test_no_function_is_longer_than_a_screen():
    long = {
        name: node.end_lineno - node.lineno + 1
        for name, node in functions().items()
        if node.end_lineno - node.lineno >= 60
    }
    assert long == {}


def test_no_function_has_more_than_seven_parameters():
    wide = {name: n for name, node in functions().items() if (n := n_parameters(node)) > 7}
    assert wide == {}


def test_no_folder_has_more_than_18_modules():
    folders = {path.parent for path in LIBRARY.rglob("*.py")}
    counts = {f.name: len([p for p in f.glob("*.py") if p.name != "__init__.py"]) for f in folders}
    assert {name: n for name, n in counts.items() if n > 18} == {}


@pytest.mark.parametrize("path", sorted(LIBRARY.rglob("__init__.py")), ids=str)
def test_a_package_file_holds_a_docstring_and_nothing_else(path):
    (only,) = ast.parse(path.read_text(encoding="utf-8")).body
    assert isinstance(only, ast.Expr) and isinstance(only.value.value, str)


def test_the_library_takes_no_command_line():
    """Only scripts know argparse's Namespace; the Trainer's `self.args` is another thing."""
    users = [
        str(path.relative_to(LIBRARY))
        for path in LIBRARY.rglob("*.py")
        if re.search(r"\bNamespace\b|(?<!self\.)\bargs\.[a-z]", path.read_text(encoding="utf-8"))
    ]
    assert users == []


def test_no_script_is_longer_than_170_lines():
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in SCRIPTS}
    assert {name: n for name, n in lengths.items() if n > 170} == {}


def test_no_test_imports_another():
    imports = {
        str(path.relative_to(ROOT)): node.module
        for path in TESTS
        if re.search(r"from\s+[\w.]*(test_|conftest)", text := path.read_text(encoding="utf-8"))
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom)
        and re.match(r"(.*\.)?(test_|conftest)", node.module or "")
    }
    assert imports == {}


def test_the_formatter_is_hardly_ever_switched_off():
    text = "\n".join(path.read_text(encoding="utf-8") for path in (*CODE, *TESTS))
    assert len(re.findall("# fmt" + ":", text)) < 20


def test_lines_of_documents_and_shell_scripts_end_at_100_columns():
    """Code has ruff for that. A table row or a link cannot be folded."""
    listed = subprocess.run(
        ["git", "ls-files", "*.md", "*.sh", ".ci/run", "Makefile"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    long = [
        f"{name}:{number}"
        for name in listed.stdout.split()
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > 100 and not line.lstrip().startswith("|") and "](http" not in line
    ]
    assert long == []
