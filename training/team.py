"""Processes that share the work of a training step: each computes the gradient of some of the step's rows.

Several processes of one thread are about 1.7 times as fast as one process of as many threads. They are forked, so the
frozen base is in memory once; what learns lies in shared memory, where only the parent writes it.
"""

from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection

import numpy as np
import torch
from torch import Tensor, nn

from radlite_batch.errors import EngineError
from training.encode import Row
from training.model import Learner


class Team:
    """The parent and `helpers` forked processes. Raises EngineError from gradient() where a helper has died."""

    def __init__(self, learner: Learner, helpers: int = 0):
        self._learner = learner
        self._parameters = list(learner.trainable().values())
        self._links: list[Connection] = []
        self._grads: list[list[Tensor]] = []
        if helpers:
            for parameter in self._parameters:
                parameter.data.share_memory_()
        context = get_context("fork")
        for _ in range(helpers):
            ours, theirs = context.Pipe()
            grads = [torch.zeros_like(parameter).share_memory_() for parameter in self._parameters]
            # A helper must not hold the parent's ends: their closing tells it that the parent is gone.
            closing = [*self._links, ours]
            process = context.Process(target=_help, args=(learner, theirs, grads, closing), daemon=True)
            process.start()
            theirs.close()
            self._links.append(ours)
            self._grads.append(grads)

    def gradient(self, rows: Sequence[Row], key: tuple[int, ...]) -> float:
        """Adds the gradient of the weighted mean loss over the rows' wants; returns that mean. key: what the dropout is
        drawn by, in each process another."""
        weight = sum(want.weight for row in rows for want in row.wants)
        own, *shares = _shares(rows, 1 + len(self._links))
        try:
            for worker, (link, share) in enumerate(zip(self._links, shares, strict=True), 1):
                link.send((share, weight, (*key, worker)))
            total = _backward(self._learner, own, weight, (*key, 0))
            total += sum(float(link.recv()) for link in self._links)
        except (EOFError, OSError):
            raise EngineError("a training process has ended; run the same command to go on") from None
        for grads in self._grads:
            for parameter, grad in zip(self._parameters, grads, strict=True):
                parameter.grad = grad.clone() if parameter.grad is None else parameter.grad.add_(grad)
        return total


def _shares(rows: Sequence[Row], n: int) -> list[list[Row]]:
    """The rows in n shares that take about as long: attention costs as much as all else at some 700 tokens."""
    shares: list[list[Row]] = [[] for _ in range(n)]
    times = [0.0] * n
    for row in sorted(rows, key=len, reverse=True):
        least = times.index(min(times))
        shares[least].append(row)
        times[least] += len(row) * (1 + len(row) / 700)
    return shares


def _backward(learner: Learner, rows: Sequence[Row], weight: float, key: tuple[int, ...]) -> float:
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
    total = 0.0
    for row in rows:
        loss = learner.loss(row) / weight
        torch.autograd.backward(loss)
        total += loss.item()
    return total


def _help(learner: Learner, link: Connection, grads: Sequence[Tensor], closing: Sequence[Connection]) -> None:
    for other in closing:
        other.close()
    parameters: Mapping[str, nn.Parameter] = learner.trainable()
    while True:
        try:
            rows, weight, key = link.recv()
        except EOFError:
            return
        for parameter in parameters.values():
            parameter.grad = None
        total = _backward(learner, rows, weight, key)
        for parameter, grad in zip(parameters.values(), grads, strict=True):
            grad.zero_() if parameter.grad is None else grad.copy_(parameter.grad)
        link.send(total)
