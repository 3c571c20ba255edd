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


IN_TEXT = {
    **{word: term for word, term in RETIRED.items() if word not in ("fault", "faults")},
    "judges": "evaluates",
    "judging": "evaluating",
    "proves": "verifies",
    "proved": "verified",
    "proven": "verified",
}
"""Words that no docstring and no message has; "rival" and "proof" are an option and a key of files."""


ALLOWED = {"proof", "rival", "culprit"}  # alone, as a key or a value of files and options


OPENINGS = r"(What|Whether|Of|How|The same|That|Those|All that|Where|As for)\b"
"""First words of a docstring that can only be understood with the code beside it."""


def texts_in(source: str) -> list[str]:
    """Every string of a source: docstrings, messages, help; parts of f-strings too."""
    return [
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and type(node.value) is str
    ]


def docstrings_in(source: str) -> list[str]:
    """The docstrings of modules, classes and functions, and those below attributes."""
    found = []
    for node in ast.walk(ast.parse(source)):
        for statement in getattr(node, "body", []) if isinstance(getattr(node, "body", None), list) else []:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                found.append(str(statement.value.value))
    return found


def retired_words(texts: list[str]) -> set[str]:
    words = {
        word
        for text in texts
        if text not in ALLOWED
        for word in re.findall(r"(?<![\w-])[a-z]+(?![\w-])", text.lower())
    }
    return words & IN_TEXT.keys()


def test_no_docstring_and_no_message_has_a_retired_word():
    found = {
        str(path.relative_to(PACKAGE)): words
        for path in PACKAGE.rglob("*.py")
        if (words := retired_words(texts_in(path.read_text(encoding="utf-8"))))
    }
    assert found == {}


def test_docstrings_begin_with_a_verb_or_a_noun():
    found = [
        f"{path.relative_to(PACKAGE)}: {text.splitlines()[0]}"
        for path in PACKAGE.rglob("*.py")
        for text in docstrings_in(path.read_text(encoding="utf-8"))
        if re.match(OPENINGS, text)
    ]
    assert found == []


def test_the_checks_of_texts_see_what_they_look_for():
    source = 'def f():\n    """What is judged."""\n    raise E(f"the proof of {x} failed")\n'
    assert retired_words(texts_in(source)) == {"judged", "proof"}
    assert [text for text in docstrings_in(source) if re.match(OPENINGS, text)] == ["What is judged."]
    assert retired_words(["proof", "default"]) == set()


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
