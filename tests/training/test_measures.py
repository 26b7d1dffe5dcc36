"""What a reference makes a task be scored by."""

from radlite_batch.tasks.registry import TASKS
from training.measures import measures
from training.scoring import value


def test_treatment_responses_are_scored_apart_and_under_their_system() -> None:
    gold = [("LI-RADS TR Viable",), ("LI-RADS TR Viable", "LI-RADS TR Equivocal"), ("LI-RADS 5",), ("TI-RADS 1",)]
    gold.append(("LI-RADS 5", "LI-RADS TR Viable"))  # may be either
    labels = ["LI-RADS TR Viable", None, "LI-RADS 5", "TI-RADS 1", "LI-RADS 5"]
    found = measures(TASKS["rads_assignment"], gold)
    tallies = {of: found["accuracy", of].tally({"label": labels}) for of in ("LR-TR", "LI-RADS")}
    scored = {of: (tally.n, value(tally)) for of, tally in tallies.items()}
    assert scored == {"LR-TR": (2, 1 / 2), "LI-RADS": (4, 3 / 4)}
    constant = found["accuracy", "LR-TR"]
    assert value(constant.tally(constant.constant)) == 1


def test_without_treatment_responses_there_is_no_score_of_them() -> None:
    assert ("accuracy", "LR-TR") not in measures(TASKS["rads_assignment"], [("LI-RADS 5",), ("none",)])
