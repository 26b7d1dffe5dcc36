"""Training on a tiny random Llama: packed equals separate, only adapter and cues learn, a killed run goes on."""

import multiprocessing
from collections.abc import Sequence
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed; the training extra brings it")
for library in ("transformers", "peft"):
    pytest.importorskip(library, reason=f"{library} is not installed; the training extra brings it")

from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

from radlite_batch.engine.fake import FakeModel  # noqa: E402
from radlite_batch.errors import EngineError, RunChanged  # noqa: E402
from radlite_batch.records import Decide, Generate, Prompt, Segment, Tag  # noqa: E402
from radlite_batch.tasks.spans import words  # noqa: E402
from training.encode import Asked, Encoder, Row, Want, pack  # noqa: E402
from training.lora import LOG, fit, rate, visits  # noqa: E402
from training.model import Learner, probabilities  # noqa: E402
from training.recipe import Lora, Schedule  # noqa: E402
from training.team import Team  # noqa: E402

CUES = ("size.mm", "size.side", "spans.all", "note.text")
REPORTS = ("Nodule 4 mm, left.", "Clear lungs. No nodule.", "Mass 31 mm at the right apex; no effusion.")
N_BYTES = 256


class Bytes(FakeModel):
    """One token per byte, ids that a small vocabulary holds."""

    def __init__(self) -> None:
        super().__init__()
        self.end = N_BYTES

    def tokenize(self, text: str, special: bool) -> list[int]:
        return list(text.encode())

    def piece(self, token: int) -> bytes:
        return bytes([token]) if token < N_BYTES else b""

    def reserved(self, n: int) -> list[int]:
        return [N_BYTES + 1 + i for i in range(n)]


ENCODER = Encoder(Bytes(), CUES)


def learner(dtype: torch.dtype = torch.float32, dropout: float = 0.0) -> Learner:
    """A tiny model whose adapter already says something."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=N_BYTES + 1 + len(CUES), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, attn_implementation="sdpa",
    )  # fmt: skip
    made = Learner(LlamaForCausalLM(config).to(dtype), Lora(rank=4, alpha=8, dropout=dropout), ENCODER.cue_words())
    for parameter in made.trainable().values():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def asked(report: str) -> list[Asked]:
    shared = (Segment("markup", "<s>"), Segment("report", report))
    size, side, spans, note = (Segment("cue", name) for name in CUES)
    tags = tuple("Aa."[i % 3] for i, _ in enumerate(words(report)))
    return [
        Asked(Prompt((*shared, size), Decide(("1", "2", "3"))), ("1", "3")),
        Asked(Prompt((*shared, spans, shared[1]), Tag((".", "A", "a"), words(report))), tags),
        Asked(Prompt((*shared, note), Generate(12)), ("nodule",)),
        Asked(Prompt((*shared, side), Decide(("L", "R"))), ("L",)),
    ]


def rows_of(reports: Sequence[str] = REPORTS) -> list[Row]:
    return [ENCODER.row(asked(report)) for report in reports]


def test_packed_rows_score_as_separate_rows_do() -> None:
    model = learner()
    (packed,) = pack(rows_of(), 10_000)
    together = probabilities(model, packed)
    separate = [p for report in REPORTS for a in asked(report) for p in probabilities(model, ENCODER.row([a]))]
    assert [len(p) for p in together] == [len(p) for p in separate]
    for one, other in zip(together, separate, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    # The questions of a report do differ, so a branch that read another's cue would show.
    assert max(abs(a - b) for a, b in zip(together[0], together[len(separate) // 3], strict=False)) > 1e-3


def test_a_bfloat16_base_scores_alike() -> None:
    row = rows_of()[0]
    exact, coarse = (probabilities(learner(dtype), row) for dtype in (torch.float32, torch.bfloat16))
    assert [p for one in coarse for p in one] == pytest.approx([p for one in exact for p in one], abs=0.03)


def test_scores_are_taken_without_dropout() -> None:
    dropping, row = learner(dropout=0.5), rows_of()[0]
    assert probabilities(dropping, row) == probabilities(dropping, row) == probabilities(learner(), row)
    assert float(dropping.loss(row).detach()) != float(dropping.loss(row).detach())


def test_a_branch_sees_the_report_and_no_other_branch() -> None:
    model = learner()
    row = ENCODER.row(asked(REPORTS[0]))
    before = probabilities(model, row)
    decided = row.wants[-1].place
    for place, seen in ((row.wants[0].place, False), (5, True)):
        tokens = row.tokens.copy()
        tokens[place] = ord("z")
        after = probabilities(model, Row(tokens, row.positions, row.nodes, row.parents, row.wants))
        assert row.mask()[decided, place] == seen
        assert (after[-1] != pytest.approx(before[-1], abs=1e-6)) == seen


def test_positions_are_the_branch_s_own() -> None:
    model = learner()
    row = ENCODER.row(asked(REPORTS[0]))
    shifted = row.positions + 3 * (row.nodes == row.nodes[row.wants[-1].place])
    after = probabilities(model, Row(row.tokens, shifted, row.nodes, row.parents, row.wants))
    assert after[-1] != pytest.approx(probabilities(model, row)[-1], abs=1e-6)


def test_the_loss_of_a_partial_label_is_of_the_summed_probability() -> None:
    model = learner()
    row = ENCODER.row(asked(REPORTS[0])[:1])
    (p,) = probabilities(model, row)
    assert row.wants[0].right == (0, 2)
    assert model.loss(row).item() == pytest.approx(-torch.tensor(p[0] + p[2]).log().item(), abs=1e-5)


def test_the_loss_of_a_row_is_the_weighted_sum_over_its_places() -> None:
    model = learner()
    row = rows_of()[0]
    right = [sum(p[i] for i in want.right) for p, want in zip(probabilities(model, row), row.wants, strict=True)]
    weights = torch.tensor([want.weight for want in row.wants])
    assert len(set(weights.tolist())) == 3  # a decision, a tag and a text
    assert model.loss(row).item() == pytest.approx(-(weights * torch.tensor(right).log()).sum().item(), rel=1e-4)


def test_only_adapter_and_cues_learn(tmp_path: Path) -> None:
    model = learner()
    frozen = {n: p.clone() for n, p in model.model.named_parameters() if not p.requires_grad}
    cues = model.cues.detach().clone()
    asked_once = [ENCODER.row(asked(REPORTS[0])[:3])]  # the last cue is not asked
    losses = [step.loss for step in fit(model, lambda step: asked_once, Schedule(8, 1e-2, warmup=1), tmp_path)]
    assert losses[-1] < losses[0]
    assert all("lora_" in name or name == "cues" for name in model.trainable())
    assert any("embed_tokens" in name for name in frozen)
    assert all(torch.equal(p, frozen[n]) and p.grad is None for n, p in model.model.named_parameters() if n in frozen)
    changed = (model.cues != cues).any(dim=1).tolist()
    assert changed == [True, False, True, True]  # in the order of CUES


def test_cues_learn_at_their_own_rate(tmp_path: Path) -> None:
    model = learner()
    before = dict(zip(model.trainable(), state(model), strict=True))
    list(fit(model, lambda step: rows_of()[:1], Schedule(1, 1e-3, cue_factor=10, warmup=1), tmp_path))
    # Adam's first step moves whatever has a gradient by its rate.
    moved = {name: (p - before[name]).abs().median().item() for name, p in model.trainable().items()}
    assert moved.pop("cues") == pytest.approx(1e-2, rel=1e-2)
    assert list(moved.values()) == pytest.approx([1e-3] * len(moved), rel=1e-2)


def test_cues_start_as_the_mean_of_their_words() -> None:
    config = LlamaConfig(
        vocab_size=N_BYTES + 1 + len(CUES), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    base = LlamaForCausalLM(config)
    made = Learner(base, Lora(rank=2, alpha=4), {260: [65, 66]})
    weight = base.get_output_embeddings().weight
    assert torch.allclose(made.cues[0], (weight[65] + weight[66]) / 2)
    output = base.get_input_embeddings()(torch.tensor([[260, 65]]))
    assert torch.allclose(output[0], torch.stack((made.cues[0], weight[65])))


def state(model: Learner) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.trainable().values()]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path, dropout: float) -> None:
    rows = rows_of()

    def batch(step: int) -> list[Row]:
        return pack([rows[i] for i in visits(len(rows), 2, step, seed=1)], 200)

    schedule = Schedule(6, 1e-2, warmup=2, save_every=2)
    whole = learner(dropout=dropout)
    assert [step.number for step in fit(whole, batch, schedule, tmp_path / "whole")] == [1, 2, 3, 4, 5, 6]
    for step in fit(learner(dropout=dropout), batch, schedule, tmp_path / "cut"):
        if step.number == 3:
            break  # one step after the checkpoint, and in the log
    again = learner(dropout=dropout)
    again.load({name: torch.zeros_like(p) for name, p in again.trainable().items()})
    assert [step.number for step in fit(again, batch, schedule, tmp_path / "cut")] == [3, 4, 5, 6]
    assert all(torch.equal(a, b) for a, b in zip(state(whole), state(again), strict=True))
    assert (tmp_path / "cut" / LOG).read_text() == (tmp_path / "whole" / LOG).read_text()
    assert list(fit(learner(), batch, schedule, tmp_path / "whole")) == []
    with pytest.raises(RunChanged, match="learning_rate"):
        list(fit(learner(), batch, Schedule(6, 2e-2, warmup=2, save_every=2), tmp_path / "cut"))


def test_an_epoch_visits_everything_once() -> None:
    seen = [i for step in range(7) for i in visits(14, 4, step, seed=3)]
    assert sorted(seen[:14]) == sorted(seen[14:]) == list(range(14))
    assert seen[:14] != seen[14:]
    assert seen[:14] != [i for step in range(4) for i in visits(14, 4, step, seed=4)][:14]


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    torch.set_num_threads(1)  # a process that has started threads cannot be forked safely
    schedule, rows = Schedule(3, 1e-2, warmup=1), rows_of()
    alone, team = learner(), learner()
    losses = [step.loss for step in fit(alone, lambda step: rows, schedule, tmp_path / "alone")]
    shared = [step.loss for step in fit(team, lambda step: rows, schedule, tmp_path / "team", helpers=1)]
    assert shared == pytest.approx(losses, rel=1e-4)
    for name, parameter in alone.trainable().items():
        assert torch.allclose(parameter, team.trainable()[name], atol=1e-4), name


def test_dropout_is_another_for_each_step_process_and_seed() -> None:
    torch.set_num_threads(1)
    row = rows_of()[0]
    model = learner(dropout=0.5)
    alone, team = Team(model), Team(model, 1)
    first = alone.gradient([row], (0, 0))
    assert alone.gradient([row], (0, 0)) == first
    assert first not in (alone.gradient([row], (0, 1)), alone.gradient([row], (1, 0)))
    assert team.gradient([row, row], (0, 0)) != pytest.approx(first)  # the mean of both processes


def test_a_dead_helper_ends_the_training_with_one_line(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    steps = fit(learner(), lambda step: rows_of(), Schedule(9, 1e-2, warmup=1), tmp_path, helpers=1)
    next(steps)
    (helper,) = multiprocessing.active_children()
    helper.kill()
    helper.join()
    with pytest.raises(EngineError, match="a training process has ended"):
        list(steps)


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    schedule = Schedule(100, learning_rate=1.0, warmup=10)
    assert [rate(schedule, step) for step in (0, 9, 10)] == pytest.approx([0.1, 1.0, 1.0])
    assert rate(schedule, 55) == pytest.approx(0.5)
    assert rate(schedule, 99) < 1e-3


def test_candidates_are_scored_by_their_own_rows_of_the_head() -> None:
    model = learner()
    row = ENCODER.row(asked(REPORTS[0])[:1])
    place, candidates = row.wants[0].place, row.wants[0].candidates
    assert candidates is not None
    everything = Row(row.tokens, row.positions, row.nodes, row.parents, (Want(place, None, (0,)),))
    (all_tokens,) = probabilities(model, everything)
    chosen = torch.tensor([all_tokens[c] for c in candidates])
    assert probabilities(model, row)[0] == pytest.approx((chosen / chosen.sum()).tolist(), abs=1e-5)
