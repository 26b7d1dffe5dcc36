"""The figures of a benchmark: medians with spread, ratios paired by round, the share of the bound; JSON and table."""

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from radlite_batch.bench.peers import Measure


@dataclass(frozen=True, slots=True)
class Spread:
    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        ordered = sorted(values)
        return cls(statistics.median(ordered), ordered[0], ordered[-1])


@dataclass(slots=True)
class System:
    """One system of the comparison; measures: one a round."""

    name: str
    about: str
    settings: dict[str, Any] = field(default_factory=dict)
    measures: list[Measure] = field(default_factory=list)

    @property
    def rate(self) -> Spread:
        """Reports per hour."""
        return Spread.of(measure.rate for measure in self.measures)

    def per_report(self, key: str) -> float:
        """Tokens (prompt_tokens, written_tokens, drafted or accepted) per report, the median of the rounds."""
        return float(statistics.median(getattr(measure, key) / measure.reports for measure in self.measures))


@dataclass(slots=True)
class Result:
    """A finished benchmark; it holds counts and times, and nothing of a report.

    core_sets: logical CPUs of each of the engine's workers. unique_tokens: tokens of the pack's prompts, those that
    prompts share counted once. kernel: prompt tokens per second of llama.cpp by batch size, for each round.
    left_out: systems that did not run, and why."""

    machine: dict[str, str]
    pack: str
    model: dict[str, str]
    tasks: tuple[str, ...]
    reports: int
    core_sets: tuple[tuple[int, ...], ...]
    unique_tokens: int
    systems: dict[str, System]
    left_out: dict[str, str] = field(default_factory=dict)
    kernel: list[dict[int, float]] = field(default_factory=list)

    @property
    def bound(self) -> Spread:
        """Reports per hour if every shared prompt token were computed once, at llama.cpp's own speed, and no more."""
        return Spread.of(self._bounds())

    def ratio(self, name: str, peer: str) -> Spread:
        """Reports per hour of one system over another's, round by round."""
        pairs = zip(self.systems[name].measures, self.systems[peer].measures, strict=True)
        return Spread.of(ours.rate / theirs.rate for ours, theirs in pairs)

    def share_of_bound(self, name: str) -> Spread:
        pairs = zip(self.systems[name].measures, self._bounds(), strict=True)
        return Spread.of(measure.rate / bound for measure, bound in pairs)

    def _bounds(self) -> list[float]:
        return [max(speeds.values()) * 3600 * self.reports / self.unique_tokens for speeds in self.kernel]

    def document(self, reference: str) -> dict[str, Any]:
        """Everything measured, and what follows from it; ratios are of the system `reference` over each other one."""
        derived = {
            name: {
                "reports_per_hour": asdict(system.rate),
                "prompt_tokens_per_report": system.per_report("prompt_tokens"),
                "written_tokens_per_report": system.per_report("written_tokens"),
                "share_of_bound": asdict(self.share_of_bound(name)),
            }
            | ({} if name == reference else {f"{reference}_over_it": asdict(self.ratio(reference, name))})
            for name, system in self.systems.items()
        }
        return asdict(self) | {"bound_reports_per_hour": asdict(self.bound), "derived": derived}

    def lines(self, reference: str) -> list[str]:
        """The comparison as a person reads it on a terminal."""
        rounds = len(self.kernel)
        lines = [
            f"{self.reports} distinct reports, {len(self.tasks)} tasks ({', '.join(self.tasks)})",
            f"{rounds} rounds, all systems in turn; median (least to most)",
            f"{self.machine['cpu']}, {self.machine['cores']} cores; pack {self.pack}, {self.model['form']}",
            "",
            f"{'system':<14}{'reports/hour':>28}{reference + ' is':>22}{'of bound':>10}{'prompt':>9}{'written':>9}",
        ]
        for name, system in self.systems.items():
            ratio = "" if name == reference else f"{_range(self.ratio(reference, name), '.2f')} x"
            lines.append(
                f"{name:<14}{_range(system.rate, ',.0f'):>28}{ratio:>22}{self.share_of_bound(name).median:>10.0%}"
                f"{system.per_report('prompt_tokens'):>9.1f}{system.per_report('written_tokens'):>9.1f}"
            )
        lines.append(f"{'bound':<14}{_range(self.bound, ',.0f'):>28}{'':>32}{self.unique_tokens / self.reports:>9.1f}")
        lines += ["", "prompt, written: tokens computed and written per report"]
        lines += [f"{name}: {system.about}" for name, system in self.systems.items()]
        for name, system in self.systems.items():
            if drafted := system.per_report("drafted"):
                share = system.per_report("accepted") / drafted
                lines.append(f"{name}: {drafted:.1f} written tokens guessed per report, {share:.0%} of them right")
        lines += [f"{name} was left out: {why}" for name, why in self.left_out.items()]
        return lines


def write(result: Result, reference: str, out: Path) -> None:
    """Writes bench.json and bench.txt into the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    document = json.dumps(result.document(reference), indent=1, ensure_ascii=False)
    (out / "bench.json").write_text(document + "\n", encoding="utf-8")
    (out / "bench.txt").write_text("\n".join(result.lines(reference)) + "\n", encoding="utf-8")


def _range(spread: Spread, form: str) -> str:
    return f"{spread.median:{form}} ({spread.least:{form}} to {spread.most:{form}})"
