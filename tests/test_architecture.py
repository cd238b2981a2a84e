"""The house rules that a reader relies on: small modules, small rooms, and one meaning per class name."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
ROOMS = sorted(path.parent for path in (REPOSITORY / "lab").rglob("__init__.py") if path.parent.name != "lab")
MOST_LINES = 350


def modules(folder: str) -> list[Path]:
    return sorted((REPOSITORY / folder).rglob("*.py"))


def test_no_module_of_the_library_is_long():
    lengths = {path.relative_to(REPOSITORY): len(path.read_text().splitlines()) for path in modules("lab")}
    assert {path: lines for path, lines in lengths.items() if lines > MOST_LINES} == {}


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(REPOSITORY)))
def test_a_room_has_two_to_eight_files_and_says_what_it_is_for(room: Path):
    files = [path for path in room.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()]
    assert 2 <= len(files) - 1 <= 8, sorted(path.name for path in files)
    assert ast.get_docstring(ast.parse((room / "__init__.py").read_text()))


def test_a_class_name_means_one_thing():
    places = defaultdict(list)
    for path in (*modules("lab"), *modules("experiments")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path.relative_to(REPOSITORY)))
    # An option's dataclass in lab/schema and the module that implements it share the name of the thing.
    clashes = {
        name: files for name, files in places.items() if len([f for f in files if not f.startswith("lab/schema/")]) > 1
    }
    assert clashes == {}
