"""What stands out, and what to change next: rules, each with the number that it rests on.

A rule looks at the report and gives a finding or None. None of them guesses: what was not measured is left out.
"""

from __future__ import annotations

from ssdlite.report.content import Finding, Report
from ssdlite.report.judgement_findings import DETECTION_RULES
from ssdlite.report.training_findings import TRAINING_RULES

MOST = 8  # that are shown


def find(report: Report) -> list[Finding]:
    """What stands out, the heaviest first."""
    found = [finding for rule in TRAINING_RULES if (finding := rule(report))]
    if report.judged:
        analysis = report.judged.analysis
        found += [finding for judge in DETECTION_RULES if (finding := judge(analysis, report))]
    return sorted(found, key=lambda finding: -finding.weight)[:MOST]
