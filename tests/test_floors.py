"""The house keeps its floors: a module imports lower floors and, in its own room, siblings, never in a circle."""

import ast
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "ssdlite"
FLOORS = [
    {"errors"},
    {"box_arrays"},
    {"structures", "boxes", "files", "schema"},
    {"mistakes", "overrides", "fetch"},
    {"config", "drawing", "data", "model", "losses"},
    {"training", "evaluation", "deploy", "prediction", "importers"},
    {"sources", "report", "pretrained"},
    {"build"},
    {"models"},
    {"benchmark", "api"},
    {"commands"},
    {"cli", "__main__", "__init__"},
]
EXCEPTIONS = {("__main__", "cli")}  # the door


def room_of(module: str) -> str:
    """ssdlite.data.coco -> data."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports_of(path: Path) -> set[str]:
    """The dotted names inside the package that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path} imports relatively"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.split(".")[0] == "ssdlite" and name != "ssdlite"}


def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")
    }


def floor_of(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def test_every_room_has_a_floor():
    assert {room_of(name) for name in modules()} <= set().union(*FLOORS)


def test_imports_go_down():
    for name, path in modules().items():
        room = room_of(name)
        for imported in imports_of(path):
            other = room_of(imported)
            if other in (room, "__version__") or (room, other) in EXCEPTIONS:
                continue
            assert floor_of(other) < floor_of(room), f"{name} imports {imported}, which is not below it"


def test_no_circles_inside_a_room():
    graph = {name: imports_of(path) & set(modules()) for name, path in modules().items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"circle: {' -> '.join([*trail, name])}"
        if name not in done:
            for imported in graph[name]:
                visit(imported, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_leaves_never_see_a_config():
    for name, path in modules().items():
        if room_of(name) in ("data", "model", "losses", "training", "evaluation", "deploy", "prediction", "report"):
            assert not any(room_of(imported) == "config" for imported in imports_of(path)), name


def test_ground_floor_needs_only_torch_and_numpy():
    for name, path in modules().items():
        if room_of(name) in FLOORS[0] | FLOORS[1]:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            roots = {
                alias.name.split(".")[0]
                for node in ast.walk(tree)
                if isinstance(node, ast.Import)
                for alias in node.names
            }
            roots |= {
                node.module.split(".")[0]
                for node in ast.walk(tree)
                if isinstance(node, ast.ImportFrom) and node.module
            }
            assert roots - set(sys.stdlib_module_names) <= {"torch", "numpy", "ssdlite"}, name
