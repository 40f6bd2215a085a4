"""FwPKM once more, as loops over tokens, heads and slots in float64: the equations, sharing no code.

It scores all S² slots of a head and sorts them, which also checks that a product-key lookup finds the true
top-k. Slow; for small sizes only. Shapes as in `fwpkm_eval.kernels.types`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Read:
    """One token's read: slots and weights [H·k]; the chosen sub-keys of each half and scores [H][2][k]."""

    slots: list[int]
    weights: Array
    chosen: list[list[list[int]]]
    scores: list[list[Array]]


@dataclass
class NaiveMemory:
    """keys [H,2,S,d], values [S²,dv], changed by `write`."""

    keys: Array
    values: Array
    topk: int
    score: str
    learning_rate: float = 1.0
    addressing_weight: float = 1.0
    addressing: str = "entropy"

    def _score(self, query: Array, key: Array) -> float:
        if self.score == "dot":
            return float(query @ key)
        return -math.log(1e-3 + float(((query - key) ** 2).sum()))

    def find(self, query: Array) -> Read:
        """query [H·dk] of one token."""
        heads, _, subkeys, width = self.keys.shape
        slots: list[int] = []
        selected: list[float] = []
        chosen, scores = [], []
        for head in range(heads):
            halves = query.reshape(heads, 2, width)[head]
            table = [
                np.array([self._score(halves[m], self.keys[head, m, i]) for i in range(subkeys)]) for m in range(2)
            ]
            pairs = {i * subkeys + j: table[0][i] + table[1][j] for i in range(subkeys) for j in range(subkeys)}
            best = sorted(pairs, key=lambda slot: -pairs[slot])[: self.topk]
            slots += best
            selected += [pairs[slot] for slot in best]
            top = [sorted(range(subkeys), key=lambda i, m=m: -table[m][i])[: self.topk] for m in range(2)]  # type: ignore[misc]
            chosen.append(top)
            scores.append([table[m][top[m]] for m in range(2)])
        return Read(slots, _softmax(np.array(selected)), chosen, scores)

    def read(self, query: Array) -> Array:
        """query [H·dk] → v̂ [dv]."""
        found = self.find(query)
        return np.asarray(sum(w * self.values[slot] for slot, w in zip(found.slots, found.weights, strict=True)))

    def write(self, query: Array, targets: Array, gate: Array, written: list[bool]) -> None:
        """The write after a chunk: query [n,H·dk]; targets [n,dv] and gate [n] where `written`."""
        reads = [self.find(q) for q in query]
        outputs = [self.read(q) for q in query]
        heads, _, subkeys, _ = self.keys.shape
        tokens, kept = len(query), sum(written)
        counts = np.zeros(len(self.values))
        sums = np.zeros_like(self.values)
        for t, found in enumerate(reads):
            for slot, weight in zip(found.slots, found.weights, strict=True):
                counts[slot] += 1
                if written[t]:
                    sums[slot] += weight * gate[t] * (outputs[t] - targets[t])
        step = np.zeros_like(self.keys)
        if self.addressing == "entropy":
            mean = np.zeros((2, subkeys))
            shares = [[[_softmax(s) for s in halves] for halves in found.scores] for found in reads]
            for t, found in enumerate(reads):
                for head in range(heads):
                    for m in range(2):
                        for i, p in zip(found.chosen[head][m], shares[t][head][m], strict=True):
                            mean[m, i] += p / (tokens * heads)
            slope = self.addressing_weight * (np.log(mean + 1e-8) + mean / (mean + 1e-8))
            for t, found in enumerate(reads):
                for head in range(heads):
                    for m in range(2):
                        p = shares[t][head][m]
                        dp = slope[m][found.chosen[head][m]] / (tokens * heads)
                        ds = p * (dp - float(p @ dp))
                        self._pull_keys(step, query[t], head, m, found.chosen[head][m], ds)
        elif kept:
            self._memorisation_step(step, query, targets, gate, written, reads, outputs)
        if kept:
            for slot in np.flatnonzero(counts):
                scale = heads * self.topk * tokens / kept / counts[slot]
                self.values[slot] -= self.learning_rate * scale * sums[slot]
        self.keys = self.keys - self.learning_rate * step

    def _memorisation_step(
        self,
        step: Array,
        query: Array,
        targets: Array,
        gate: Array,
        written: list[bool],
        reads: list[Read],
        outputs: list[Array],
    ) -> None:
        """No-entropy ablation: the gradient of ½·mean of g·(v̂ − y)² over tokens and features, through w."""
        subkeys, count = self.keys.shape[2], sum(written) * self.values.shape[1]
        for t, found in enumerate(reads):
            if not written[t]:
                continue
            error = gate[t] * (outputs[t] - targets[t]) / count
            dw = np.array([float(error @ self.values[slot]) for slot in found.slots])
            ds = found.weights * (dw - float(found.weights @ dw))
            for place, slot in enumerate(found.slots):
                head = place // self.topk
                self._pull_keys(step, query[t], head, 0, [slot // subkeys], ds[place : place + 1])
                self._pull_keys(step, query[t], head, 1, [slot % subkeys], ds[place : place + 1])

    def _pull_keys(self, step: Array, query: Array, head: int, m: int, chosen: list[int], ds: Array) -> None:
        """Adds ds·∂s/∂K of the chosen sub-keys."""
        heads, _, _, width = self.keys.shape
        half = query.reshape(heads, 2, width)[head, m]
        for i, slope in zip(chosen, ds, strict=True):
            if self.score == "dot":
                step[head, m, i] += slope * half
            else:
                away = self.keys[head, m, i] - half
                step[head, m, i] += slope * -2 * away / (1e-3 + float((away**2).sum()))


def _softmax(scores: Array) -> Array:
    raised = np.exp(scores - scores.max())
    return np.asarray(raised / raised.sum())


def naive_scan(
    memory: NaiveMemory, query: Array, target: Array, gate: Array | None, chunk_size: int, lookahead: int
) -> Array:
    """The scan: query [B,T,H·dk], target [B,T,dv], gate [B,T] or None → reads [B,T,dv]; memory is written."""
    batch, tokens, _ = query.shape
    gate = np.ones((batch, tokens)) if gate is None else gate
    outputs = np.zeros(target.shape)
    for start in range(0, tokens, chunk_size):
        stop = min(start + chunk_size, tokens)
        size = stop - start
        for b in range(batch):
            for t in range(start, stop):
                outputs[b, t] = memory.read(query[b, t])
        shifted = np.zeros((batch, size, target.shape[2]))
        has_target = [t + lookahead < size for t in range(size)]
        for t in range(max(size - lookahead, 0)):
            shifted[:, t] = target[:, start + t + lookahead]
        memory.write(
            query[:, start:stop].reshape(batch * size, -1),
            shifted.reshape(batch * size, -1),
            gate[:, start:stop].reshape(-1),
            has_target * batch,
        )
    return outputs


@dataclass
class NaiveStream:
    """Tokens one at a time: read, queue, write when chunk + lookahead wait; chunk_size None: at the flush."""

    memory: NaiveMemory
    lookahead: int
    chunk_size: int | None
    queue: list[tuple[Array, Array, float]] = field(default_factory=list)

    def feed(self, query: Array, target: Array, gate: float) -> Array:
        output = self.memory.read(query)
        self.queue.append((query, target, gate))
        if self.chunk_size is not None and len(self.queue) == self.chunk_size + self.lookahead:
            self._write(self.chunk_size)
        return output

    def flush(self) -> None:
        if len(self.queue) > self.lookahead:
            self._write(len(self.queue) - self.lookahead)
        self.queue = []

    def _write(self, count: int) -> None:
        targets = [self.queue[t + self.lookahead][1] for t in range(count)]
        self.memory.write(
            np.stack([q for q, _, _ in self.queue[:count]]),
            np.stack(targets),
            np.array([g for _, _, g in self.queue[:count]]),
            [True] * count,
        )
        self.queue = self.queue[count:]
