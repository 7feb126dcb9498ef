"""The text format of OpenMetrics 1.0: families of samples, labels, escapes.

https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md. Names and help
texts are ours; values of labels may be anything, such as a sandbox's name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

FamilyType = Literal["counter", "gauge", "histogram", "info", "stateset"]
Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One line: what the family's name is followed by, labels, the value."""

    suffix: str
    labels: Labels
    value: float


@dataclass(slots=True)
class Family:
    """One metric. A name with a unit ends in it: `…_seconds`, `…_bytes`."""

    name: str
    type: FamilyType
    help: str
    unit: str = ""
    samples: list[Sample] = field(default_factory=list[Sample])

    def add(self, labels: Labels, value: float) -> None:
        """A sample; counters get the suffix `_total`, infos `_info`."""
        suffix = {"counter": "_total", "info": "_info"}.get(self.type, "")
        self.samples.append(Sample(suffix=suffix, labels=labels, value=value))

    def add_states(self, labels: Labels, states: Iterable[str], current: str) -> None:
        """One sample per state, 1 for the current one."""
        for state in states:
            named = {**labels, self.name: state}
            self.samples.append(Sample(suffix="", labels=named, value=float(state == current)))

    def add_histogram(
        self, labels: Labels, bounds: Sequence[float], counts: Sequence[int], total: float
    ) -> None:
        """Buckets that grow, their count, the sum; `counts` has one for what is above `bounds`."""
        below = 0
        for bound, count in zip((*bounds, math.inf), counts, strict=True):
            below += count
            bucket = {**labels, "le": format_value(float(bound))}
            self.samples.append(Sample(suffix="_bucket", labels=bucket, value=below))
        self.samples.append(Sample(suffix="_count", labels=labels, value=below))
        self.samples.append(Sample(suffix="_sum", labels=labels, value=total))


def format_families(families: Iterable[Family]) -> str:
    """The whole exposition, ended by `# EOF`."""
    lines: list[str] = []
    for family in families:
        lines.append(f"# TYPE {family.name} {family.type}")
        if family.unit:
            lines.append(f"# UNIT {family.name} {family.unit}")
        lines.append(f"# HELP {family.name} {escape(family.help)}")
        for sample in family.samples:
            labels = ",".join(f'{key}="{escape(text)}"' for key, text in sample.labels.items())
            value = format_value(sample.value)
            lines.append(f"{family.name}{sample.suffix}{{{labels}}} {value}")
    return "\n".join([*lines, "# EOF\n"])


def escape(text: str) -> str:
    """A label's value or a help text: backslash, quote and newline are escaped, nothing else is."""
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return whole.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def format_value(value: float) -> str:
    """A number as the format spells it; whole ones of any size exactly."""
    if isinstance(value, int):
        return str(value)
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value)
