"""Adds up the reports of a test run: JUnit XML files (GoogleTest, pytest) and steps.tsv.

Prints every failure and the reason of every skip, then 'N passed, N failed, N skipped' as the last line.
Exit code 1 when anything failed or nothing ran.
"""

import sys
import xml.etree.ElementTree as xml
from pathlib import Path


def junit_cases(path):
    """(name, outcome, reason) of every test case in a report."""
    for case in xml.parse(path).getroot().iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            yield name, "failed", ""
        elif skipped is not None or case.get("result") in ("skipped", "suppressed"):
            reason = (skipped.get("message") or skipped.text or "") if skipped is not None else "disabled"
            yield name, "skipped", " ".join(reason.split())
        else:
            yield name, "passed", ""


# Steps that run test cases, and where their reports are.
REPORTS = {"unit tests": "build/*.xml", "command line and Python tests": "pytest.xml", "sanitizer tests": "build-asan/*.xml"}


def main():
    results = Path(sys.argv[1])
    cases = []
    for line in (results / "steps.tsv").read_text().splitlines():
        outcome, step, *reason = line.split("\t")
        own = [
            (f"{step}: {name}", outcome_of_case, why)
            for report in sorted(results.glob(REPORTS.get(step, "none")))
            for name, outcome_of_case, why in junit_cases(report)
        ]
        cases += own
        # A step with test cases counts by them, unless it failed although none of them did: a crash, say.
        explained = any(o == "failed" for _, o, _ in own) if outcome == "failed" else bool(own)
        if not explained:
            cases.append((step, outcome, " ".join(reason)))

    count = {"passed": 0, "failed": 0, "skipped": 0}
    for name, outcome, reason in cases:
        count[outcome] += 1
        if outcome != "passed":
            print(f"{outcome}: {name}" + (f" ({reason})" if reason else ""))
    print(f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")
    return 1 if count["failed"] or not count["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
