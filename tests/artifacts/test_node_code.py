"""What of the code counts for a node, in a package made for the test."""

import sys
import textwrap
from importlib import import_module

import pytest

from fisao_pipeline.artifacts.file_memory import FileMemory
from fisao_pipeline.artifacts.node_code import NodeCode, code_digest

FILES = {
    "__init__.py": '__version__ = "1"\n',
    "nodes.py": '''
        """Nodes."""
        from typing import TYPE_CHECKING
        from {package} import __version__
        from {package}.tools import helper
        if TYPE_CHECKING:
            from {package}.types_only import Thing

        def first(x):
            """Does it."""
            from {package}.lazy import late  # noqa
            return late(helper(x))
    ''',
    "tools/__init__.py": "from {package}.tools import unused_sibling\n",
    "tools/helper.py": """
        from .constants import LIMIT

        class Box:
            '''A box.'''
            size: int = LIMIT

        def open_box(value):
            return f"{{value:>{{LIMIT}}}}"
    """,
    "tools/constants.py": "LIMIT = 3\n",
    "tools/words.txt": "one\n",
    "tools/unused_sibling.py": "X = 1\n",
    "lazy.py": "import json\n\n\ndef late(x):\n    return x\n",
    "types_only.py": "class Thing: ...\n",
    "unrelated.py": "Y = 1\n",
}


@pytest.fixture
def package(tmp_path, monkeypatch, request):
    name = f"made_{abs(hash(request.node.name))}"
    for file, text in FILES.items():
        path = tmp_path / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).format(package=name))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return tmp_path / name


def code(package) -> dict[str, str]:
    nodes = import_module(f"{package.name}.nodes")
    found = NodeCode(FileMemory(package.parent), [package.name]).of([nodes.first])
    return {name.removeprefix(f"{package.name}/"): digest for name, digest in found.items()}


def digest_now(package) -> str:
    code_digest.cache_clear()
    return code_digest(import_module(f"{package.name}.nodes").first)


def test_a_digest_of_it_all_changes_with_a_constant_and_not_with_a_remark(package):
    before = digest_now(package)
    replace(package / "nodes.py", "# noqa", "# another remark")
    assert digest_now(package) == before
    replace(package / "tools/constants.py", "3", "4")
    assert digest_now(package) != before
    replace(package / "tools/constants.py", "4", "3")
    replace(package / "tools/words.txt", "one", "two")
    assert digest_now(package) != before


def test_modules_are_followed_through_their_imports(package):
    assert set(code(package)) == {
        "__init__.py",
        "nodes.py",
        "tools/helper.py",
        "tools/constants.py",
        "tools/words.txt",
        "lazy.py",
    }


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("nodes.py", '"""Does it."""', '"""Does something else."""'),
        ("nodes.py", '"""Nodes."""', ""),
        ("nodes.py", "# noqa", "# another remark"),
        ("tools/helper.py", "'''A box.'''", "'''A larger box.'''\n\n    # with room"),
        ("tools/helper.py", "def open_box(value):", "def open_box(\n    value,\n):"),
        ("tools/helper.py", 'f"{value:>{LIMIT}}"', "f'{value:>{LIMIT}}'"),
        ("lazy.py", "import json", "import json\n__all__ = ['late']"),
        ("__init__.py", '"1"', '"2"'),
        ("unrelated.py", "1", "2"),
        ("types_only.py", "...", "x = 1"),
        ("tools/unused_sibling.py", "1", "2"),
    ],
)
def test_what_does_not_change_the_code(package, file, old, new):
    before = code(package)
    replace(package / file, old, new)
    assert code(package) == before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("tools/constants.py", "3", "4"),
        ("tools/constants.py", "3", "3.0"),
        ("tools/constants.py", "3", "True"),
        ("tools/helper.py", "size: int", "size: float"),
        ("tools/helper.py", "value:>", "value:<"),
        ("lazy.py", "return x", "return -x"),
        ("nodes.py", "late(helper(x))", "helper(late(x))"),
        ("tools/words.txt", "one", "two"),
    ],
)
def test_what_does(package, file, old, new):
    before = code(package)
    replace(package / file, old, new)
    after = code(package)
    assert {name for name in before if before[name] != after[name]} == {file}


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_functions_of_other_packages_have_no_code_here(package):
    assert NodeCode(FileMemory(package.parent), [package.name]).of([textwrap.dedent]) == {}
