"""The final cost of a request, as its answer states it: by status, in a field, or in the body.

The body passes unchanged and at once. Of a body that holds the cost, at most TAIL_BYTES of its end are kept:

* a shorter JSON body is parsed as a whole;
* of a longer one, the last value at the path's first key is read whose place is a member of the outermost object;
* of an event stream (`text/event-stream`), the last event in the tail that has a value at the path.
"""

import json
import re
from collections.abc import Iterator, Sequence

import orjson

from sidegate.decision.policy import PolicyMatch
from sidegate.decision.settling import Admission, SettleRule, final_cost, value_at
from sidegate.edge.heads import ResponseHead

# Bounds the memory that an answer holds for its cost.
TAIL_BYTES = 64 * 1024
# Bounds the time to find a member in the end of a long document: each candidate is read through to the end.
MOST_CANDIDATES = 8

_EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_LINE_END = re.compile(rb"\r\n|\n|\r")
# A string as a whole, or a bracket: what closes an object or array must be found outside of strings.
_MARKS = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]]')
_FROM_VALUE = json.JSONDecoder().raw_decode


class AnswerCost:
    """Settles the charges of one admitted request from its answer. `reads_body`: it needs the body, by `received`."""

    __slots__ = ("_admission", "_bodies", "_events", "_rules", "_tail", "reads_body")

    def __init__(self, admission: Admission, applied: Sequence[PolicyMatch]) -> None:
        self._admission = admission
        self._rules = [
            (position, rule, entry.charge.cost)
            for position, entry in enumerate(applied)
            if (rule := entry.policy.settle) is not None and entry.charge is not None
        ]
        self._bodies: list[tuple[int, SettleRule]] = []
        self._events = False
        self._tail = bytearray()
        self.reads_body = False

    def on_head(self, head: ResponseHead) -> None:
        """Settle the charges that status and fields decide, and remove the fields that state a cost."""
        taken_out: set[str] = set()
        for position, rule, cost in self._rules:
            if rule.when:
                self._admission.settle(position, rule.by_status(head.status, cost))
            elif rule.header:
                values = _values_of(head.lines, rule.header)
                self._admission.settle(position, final_cost(values[0]) if len(values) == 1 else None)
                if not rule.keep_header:
                    taken_out.add(rule.header)
            else:
                self._bodies.append((position, rule))
        if taken_out:
            head.lines[1:] = [line for line in head.lines[1:] if _name_of(line) not in taken_out]
        if self._bodies:
            self.reads_body = True
            kinds = _values_of(head.lines, "content-type")
            self._events = bool(kinds) and kinds[0].partition(";")[0].strip().lower() == "text/event-stream"

    def received(self, content: bytes) -> None:
        """Record a piece of the body."""
        tail = self._tail
        tail += content[-TAIL_BYTES:]
        del tail[:-TAIL_BYTES]

    def ended(self) -> None:
        """Settle the charges that the body decides, at its end."""
        tail = bytes(self._tail)
        read = event_value if self._events else json_value
        for position, rule in self._bodies:
            self._admission.settle(position, final_cost(read(tail, rule.json)))


def json_value(tail: bytes, path: Sequence[str]) -> object:
    """The value at a path of a JSON document, from the document or its end; None where there is none."""
    try:
        return value_at(orjson.loads(tail), path)
    except orjson.JSONDecodeError:
        pass
    text = tail.decode("utf-8", "replace")
    for value in _members_from_end(text, path[0]):
        return value_at({path[0]: value}, path)
    return None


def event_value(tail: bytes, path: Sequence[str]) -> object:
    """The value at a path of the JSON in the last event that has one; None where none has."""
    for event in reversed(_EVENT_END.split(tail)):
        lines = [line.partition(b":")[2].removeprefix(b" ") for line in _LINE_END.split(event) if line[:5] == b"data:"]
        try:
            found = value_at(orjson.loads(b"\n".join(lines)), path) if lines else None
        except orjson.JSONDecodeError:
            continue
        if found is not None:
            return found
    return None


def _members_from_end(text: str, key: str) -> Iterator[object]:
    """Values of members of the outermost object with this key, the last one first; the text is the object's end."""
    quoted = json.dumps(key, ensure_ascii=False)
    found = [match.end() for match in re.finditer(rf"(?<!\\){re.escape(quoted)}\s*:\s*", text)]
    for begin in found[: -MOST_CANDIDATES - 1 : -1]:
        try:
            value, end = _FROM_VALUE(text, begin)
        except (ValueError, RecursionError):  # no JSON, or nested deeper than it can be read
            continue
        if _closes_only_the_outermost(text, end):
            yield value


def _closes_only_the_outermost(text: str, begin: int) -> bool:
    """Whether what follows a value closes the object that holds it, and nothing around that."""
    depth = 1
    for match in _MARKS.finditer(text, begin):
        mark = match[0]
        if mark in "{[":
            depth += 1
        elif mark in "}]":
            depth -= 1
            if not depth:
                return mark == "}" and not text[match.end() :].strip()
    return False


def _values_of(lines: Sequence[bytes], name: str) -> list[str]:
    return [line.partition(b":")[2].strip(b" \t").decode("latin-1") for line in lines[1:] if _name_of(line) == name]


def _name_of(line: bytes) -> str:
    return line.partition(b":")[0].decode("latin-1").lower()
