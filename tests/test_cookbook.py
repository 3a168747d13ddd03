"""docs/cookbook.md: every recipe is a valid configuration, and its requests get the results on the page."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from multidict import CIMultiDict
from sidegate.commands.simulate.logged_request import LoggedFields, LoggedRequest
from sidegate.commands.simulate.replay import Replay
from sidegate.config import compile_policies
from sidegate.config.builtin_routes import builtin_routes
from sidegate.config.load import parse
from sidegate.config.units import duration_us
from sidegate.decision.bad_request import BadRequest
from sidegate.decision.policy import PolicySet
from sidegate.decision.request import RequestFacts
from sidegate.decision.verdict import Answer, Outcome, Verdict, outcome_of, store_failed

PAGE = Path(__file__).parents[1] / "docs/cookbook.md"
START_US = 1_772_438_400_000_000

_RECIPE = re.compile(r"^## (?P<title>.+)\n(?P<text>(?:(?!^## ).*\n?)*)", re.MULTILINE)
_BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<content>.*?)^```$", re.MULTILINE | re.DOTALL)
_REQUEST = re.compile(r"(?:(?P<times>\d+) x +)?(?P<method>[A-Z]+) (?P<target>/\S*)(?P<more>.*?) +→ (?P<outcome>.+)")


class Recipe(NamedTuple):
    """A section of the page: a configuration, and lines with requests and results."""

    title: str
    config: str
    lines: list[str]


def recipes() -> Iterator[Recipe]:
    for section in _RECIPE.finditer(PAGE.read_text("utf-8")):
        blocks = [(block["language"], block["content"]) for block in _BLOCK.finditer(section["text"])]
        (_, config), (_, lines) = blocks
        assert [language for language, _ in blocks] == ["yaml", ""], section["title"]
        yield Recipe(section["title"], config, lines.splitlines())


RECIPES = list(recipes())


class RecipeRun:
    """Runs the lines of a recipe, with a clock that lines with `after` move."""

    def __init__(self, config: str) -> None:
        settings = parse(config, "cookbook.md", {})
        self._policies: PolicySet = compile_policies(settings)
        self._replay = Replay(self._policies, builtin_routes(settings))
        self._now_us = START_US
        self._store_is_down = False

    def results(self, line: str) -> Iterator[tuple[str, str]]:
        """Yield the expected and the actual result of each request of a line."""
        if line == "the store is down":
            self._store_is_down = True
        elif line.startswith("after "):
            self._now_us += duration_us(line.removeprefix("after "))
        else:
            request = _REQUEST.fullmatch(line)
            assert request is not None, f"invalid line of the cookbook: {line}"
            facts = _facts(request["method"], request["target"], re.split(r" {2,}", request["more"].strip()))
            for _ in range(int(request["times"] or 1)):
                yield request["outcome"], self._outcome(facts, request["outcome"])

    def _outcome(self, facts: RequestFacts, expected: str) -> str:
        """The result; one that passes has the status that is expected of the application."""
        status = int(expected[:3]) if expected[:3] not in ("429", "503") else 200
        try:
            verdict = self._verdict(facts, status)
        except BadRequest:
            return "400"
        if verdict is None:
            return "200"
        word = str(status) if verdict.answer is Answer.PASS else _STATUS[verdict.answer]
        return f"{word} {' and '.join(verdict.refusing)}".strip() + "".join(
            f", {entry.policy.name} would refuse"
            for entry, level in zip(verdict.applied, verdict.levels, strict=True)
            if outcome_of(verdict, entry, level) is Outcome.SHADOW_REFUSED
        )

    def _verdict(self, facts: RequestFacts, status: int) -> Verdict | None:
        applied = self._policies.applying(facts)
        if self._store_is_down:
            return store_failed(applied, "connect")
        return self._replay.take(LoggedRequest(self._now_us, True, facts, LoggedFields({}), status))


_STATUS = {Answer.REFUSE: "429", Answer.UNAVAILABLE: "503"}


def _facts(method: str, target: str, more: list[str]) -> RequestFacts:
    fields, peer = CIMultiDict[str](), "192.0.2.1"
    for each in filter(None, more):
        if each.startswith("from "):
            peer = each.removeprefix("from ")
        else:
            name, _, value = each.partition(": ")
            fields.add(name, value)
    return RequestFacts(method, target, fields, peer)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.title)
def test_a_recipe_gives_the_results_on_the_page(recipe: Recipe) -> None:
    run = RecipeRun(recipe.config)
    for line in recipe.lines:
        for expected, actual in run.results(line):
            assert actual == expected, line


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.title)
def test_every_policy_of_a_recipe_has_an_effect_in_its_lines(recipe: Recipe) -> None:
    """Each policy refuses, would refuse, exempts or denies in some line."""
    lines = " ".join(recipe.lines)
    for policy in compile_policies(parse(recipe.config, "cookbook.md", {})).policies:
        assert policy.exempt or policy.name in lines or "503" in lines


def test_there_are_at_least_12_recipes_with_unique_titles() -> None:
    titles = [recipe.title for recipe in RECIPES]
    assert len(titles) >= 12
    assert len(set(titles)) == len(titles)


def test_a_wrong_result_on_the_page_is_detected() -> None:
    run = RecipeRun("policies: [{name: one, key: client_ip, limit: 1/s}]")
    assert list(run.results("2 x GET /   → 200")) == [("200", "200"), ("200", "429 one")]
    assert list(run.results("GET /   from 192.0.2.2   → 429 one")) == [("429 one", "200")]
