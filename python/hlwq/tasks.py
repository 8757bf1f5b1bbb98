"""The tasks of ``hlwq bench --tasks``: the program starts this and reads the scores from standard output."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import Error, InvalidArgumentError


def main(arguments: Sequence[str]) -> int:
    """Takes one JSON object, {"model", "tasks", "fewshot", "limit", "options"}; prints {"tasks": [...]}."""
    # Tasks print as they please; standard output is for the scores alone.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as output:
        os.dup2(2, 1)
        try:
            request = json.loads(arguments[0])
            scores = evaluate(
                request["model"], request["tasks"], fewshot=request.get("fewshot"), limit=request.get("limit"),
                **request.get("options", {}),
            )  # fmt: skip
        except (Error, ImportError) as error:
            print(f"hlwq: {error}", file=sys.stderr)
            return 1
        except Exception as error:  # of the harness, and of what it downloads with
            print(f"hlwq: the tasks failed: {type(error).__name__}: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("hlwq: interrupted", file=sys.stderr)
            return 1
        json.dump({"tasks": scores}, output)
    return 0


def evaluate(
    model: str, tasks: Sequence[str], *, fewshot: int | None = None, limit: int | None = None, **options: Any
) -> list[dict[str, Any]]:
    """Scores of tasks of lm-evaluation-harness, by name or as .yaml files: one dict a metric.

    fewshot: examples before each question; without it the task's own number. limit: questions of each task, the first
    ones. options: those of ``Model.from_pretrained``.
    """
    from .lm_eval import HarnessModel  # says what is missing

    import lm_eval
    from lm_eval.tasks import TaskManager

    files = [task for task in tasks if task.endswith((".yaml", ".yml"))]
    for file in files:
        if not os.path.isfile(file):
            raise InvalidArgumentError(f"{file}: there is no such task file")
    manager = TaskManager(include_path=sorted({os.path.dirname(os.path.abspath(file)) for file in files}) or None)
    names = [_task_of(task) if task in files else task for task in tasks]
    for name in names:
        if not manager.match_tasks([name]):
            raise InvalidArgumentError(
                f"lm-evaluation-harness {_version()} has no task '{name}'; 'lm-eval ls tasks' lists what there is"
            )
    results = lm_eval.simple_evaluate(
        model=HarnessModel(model, **options), tasks=names, task_manager=manager, num_fewshot=fewshot, limit=limit,
        log_samples=False,
    )  # fmt: skip
    return scores_of(results)


def scores_of(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The harness's results, {task: {"metric,filter": value}}, as one dict a metric."""
    scores = []
    for task, values in results["results"].items():
        for key, value in values.items():
            metric, comma, name = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            error = values.get(f"{metric}_stderr,{name}")
            scores.append({
                "task": task,
                "metric": metric,
                "filter": name,
                "value": float(value),
                "stderr": float(error) if isinstance(error, (int, float)) else None,
                "fewshot": results.get("n-shot", {}).get(task),
                "samples": results.get("n-samples", {}).get(task, {}).get("effective"),
                "version": results.get("versions", {}).get(task),
            })  # fmt: skip
    return scores


def _task_of(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        found = re.search(r"^task: *[\"']?([^\s\"'#\[]+)", file.read(), re.M)
    if found is None:
        raise InvalidArgumentError(f"{path}: there is no line 'task: NAME' in it")
    return found[1]


def _version() -> str:
    from importlib.metadata import version

    return version("lm_eval")
