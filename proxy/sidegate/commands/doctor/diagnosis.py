"""One result of a check."""

from dataclasses import dataclass
from enum import Enum


class DiagnosisState(Enum):
    """How bad it is: a warning needs attention, a failure keeps the sidecar from working."""

    OK = "ok"
    WARNING = "warn"
    FAILURE = "fail"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """`part` names what was checked, `text` what was found, `advice` what to do about it."""

    state: DiagnosisState
    part: str
    text: str
    advice: str = ""


def ok(part: str, text: str) -> Diagnosis:
    return Diagnosis(DiagnosisState.OK, part, text)


def warning(part: str, text: str, advice: str) -> Diagnosis:
    return Diagnosis(DiagnosisState.WARNING, part, text, advice)


def failure(part: str, text: str, advice: str) -> Diagnosis:
    return Diagnosis(DiagnosisState.FAILURE, part, text, advice)
