"""Names that the project has given up for the field's terms are not used again (DESIGN: one word an idea)."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ssdlite"
RETIRED = {
    "judge": "evaluate, match",
    "judged": "evaluated, matched",
    "judgement": "matches",
    "proof": "verification",
    "prove": "verify",
    "disproved": "VerificationError",
    "evidence": "verification images",
    "fault": "error type",
    "faults": "error types",
    "alarm": "false positive",
    "alarms": "false positives",
    "culprit": "probable cause",
    "spoiled": "nonfinite",
    "blackbox": "nonfinite",
    "contender": "runtime case",
    "contenders": "runtime cases",
    "rival": "baseline",
    "rivals": "baselines",
    "wording": "formatting",
    "quietly": "suppress_output",
}


def names_in(source: str) -> set[str]:
    """Every name that a source defines or uses: modules, classes, functions, arguments, variables, attributes."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
    return found


def words_of(name: str) -> list[str]:
    """ModelCard, model_card and MODEL_CARD -> model, card."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_")


def retired_in(source: str) -> dict[str, str]:
    """Names with a retired word, each with what takes its place."""
    return {name: RETIRED[word] for name in names_in(source) for word in words_of(name) if word in RETIRED}


def test_no_name_has_a_retired_word():
    found = {
        f"{path.relative_to(PACKAGE)}: {name}": term
        for path in PACKAGE.rglob("*.py")
        for name, term in retired_in(path.read_text(encoding="utf-8")).items()
    }
    assert found == {}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("def judge(x): pass", {"judge"}),
        ("class ModelProof: pass", {"ModelProof"}),
        ("a.num_faults = MAX_RIVALS", {"num_faults", "MAX_RIVALS"}),
        ("default, improved = 'judge', 1", set()),
    ],
)
def test_the_check_sees_words_in_names_and_nothing_else(source, names):
    assert set(retired_in(source)) == names
