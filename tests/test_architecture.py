"""Imports go one way: no circles between modules or between folders, and layers that stay below others."""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ssdlite"
LAYERS = [
    {"errors"},
    {"boxes_np"},
    {"structures", "boxes", "io", "machine"},
    {"fetch", "drawing", "config", "data", "models", "losses"},
    {"priors", "training", "evaluation", "export", "inference", "importers", "validate"},
    {"report"},
    {"build"},
    {"benchmark", "api"},
    {"commands"},
    {"cli"},
    {"__main__", "__init__"},
]
"""From the bottom up: a folder or a module of the top level imports lower layers, and what its own layer's order
allows (`test_no_circles_between_folders`)."""
FREE_OF_CONFIG = {
    "data",
    "models",
    "losses",
    "priors",
    "training",
    "evaluation",
    "export",
    "inference",
    "validate",
    "report",
}
MAX_DEPTH = {"export": 2}
"""Folders below `ssdlite/FOLDER`, where there may be more than one."""


def module_paths() -> dict[str, Path]:
    """The dotted names of all modules, a package as its own name."""
    names = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imports_of(source: str, *, top_level: bool = False) -> set[str]:
    """The dotted names that a source imports, anywhere in it, each with every name that is taken from it."""
    tree, found = ast.parse(source), set()
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "an import of the package is absolute"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def import_graph() -> dict[str, set[str]]:
    """Each module with the modules of the package that it imports, whether at once or in a function."""
    paths = module_paths()
    return {
        name: {module for module in imports_of(path.read_text(encoding="utf-8")) if module in paths}
        - {"ssdlite", name}
        for name, path in paths.items()
    }


def folder_of(module: str) -> str:
    """ssdlite.data.formats.coco -> data.formats; a module of the top level is its own folder."""
    parts = module.split(".")[1:]
    return ".".join(parts[:-1]) or ".".join(parts)


def folder_graph(graph: Mapping[str, Set[str]]) -> dict[str, set[str]]:
    """Folders with the folders that they import; a package's own name counts as its folder."""
    packages = {name for name, path in module_paths().items() if path.name == "__init__.py"}

    def place(module: str) -> str:
        return module.removeprefix("ssdlite.") if module in packages else folder_of(module)

    found: dict[str, set[str]] = defaultdict(set)
    for name, imported in graph.items():
        found[place(name)] |= {place(other) for other in imported} - {place(name)}
    return dict(found)


def find_circle(graph: Mapping[str, Set[str]]) -> tuple[str, ...] | None:
    """The nodes of one circle, the first of them again at the end; None where there is none."""
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> tuple[str, ...] | None:
        if name in trail:
            return (*trail[trail.index(name) :], name)
        if name in done:
            return None
        for other in sorted(graph.get(name, ())):
            if circle := visit(other, (*trail, name)):
                return circle
        done.add(name)
        return None

    return next((circle for name in sorted(graph) if (circle := visit(name, ()))), None)


def layer_of(module: str) -> int:
    top = module.split(".")[1] if "." in module else "__init__"
    return next(number for number, names in enumerate(LAYERS) if top in names)


def uphill(graph: Mapping[str, Set[str]]) -> Iterator[tuple[str, str]]:
    """Imports of a higher layer."""
    for name, imported in graph.items():
        for other in sorted(imported):
            if layer_of(other) > layer_of(name):
                yield name, other


def test_everything_has_a_layer():
    tops = {name.split(".")[1] if "." in name else "__init__" for name in module_paths()}
    assert tops == set().union(*LAYERS)


def test_imports_go_down():
    door = ("ssdlite", "ssdlite.api")
    assert [pair for pair in uphill(import_graph()) if pair != door] == []


def test_no_circles_between_modules():
    assert find_circle(import_graph()) is None


def test_no_circles_between_folders():
    assert find_circle(folder_graph(import_graph())) is None


def test_folders_are_two_deep_at_most():
    for path in PACKAGE.rglob("__init__.py"):
        parts = path.relative_to(PACKAGE).parts[:-1]
        assert len(parts) <= MAX_DEPTH.get(parts[0] if parts else "", 2), path


def test_every_folder_says_what_lives_there():
    for path in PACKAGE.rglob("__init__.py"):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


def test_leaves_never_see_a_config():
    for name, imported in import_graph().items():
        if name != "ssdlite" and name.split(".")[1] in FREE_OF_CONFIG:
            assert not any(other.startswith("ssdlite.config") for other in imported), name


def test_the_lowest_layers_need_only_torch_and_numpy():
    for name, path in module_paths().items():
        if name != "ssdlite" and name.split(".")[1] in LAYERS[0] | LAYERS[1] | {"structures", "boxes"}:
            roots = {module.split(".")[0] for module in imports_of(path.read_text(encoding="utf-8"))}
            assert roots - set(sys.stdlib_module_names) <= {"torch", "numpy", "ssdlite"}, name


@pytest.mark.parametrize(
    ("graph", "circle"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, None),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}}, ("b", "c", "b")),
        ({"a": {"a"}}, ("a", "a")),
    ],
)
def test_find_circle_finds_circles(graph, circle):
    assert find_circle(graph) == circle


def test_folders_that_import_each_other_are_seen_though_their_modules_make_no_circle():
    graph = {
        "ssdlite.data.cache": {"ssdlite.models.decode"},
        "ssdlite.models.decode": set(),
        "ssdlite.models.norms": {"ssdlite.data.images"},
        "ssdlite.data.images": set(),
    }
    assert find_circle(graph) is None
    assert find_circle(folder_graph(graph)) == ("data", "models", "data")


def test_an_import_of_a_higher_layer_is_seen():
    assert list(uphill({"ssdlite.losses.box": {"ssdlite.build.model"}})) == [
        ("ssdlite.losses.box", "ssdlite.build.model")
    ]
