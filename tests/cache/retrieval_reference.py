"""ActQKV's cache as loops over tokens, one row at a time, in float64: what a row keeps, asks for and reads."""

import numpy as np

from jaxdec.attention.sparse.actqkv import ActQKV


def turn(x, position, theta=1e4):
    """Rotate the last axis as at a position."""
    half = x.shape[-1] // 2
    angle = position * theta ** (-np.arange(half) / half)
    cos, sin = np.cos(angle), np.sin(angle)
    first, second = x[..., :half], x[..., half:]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def softmax(x):
    weights = np.exp(x - x.max())
    return weights / weights.sum()


class RowReference:
    """One row: its tokens, and per layer what is known of them."""

    def __init__(self, rule: ActQKV, layers: int, group: int):
        self.rule, self.layers, self.group = rule, layers, group
        self.keys, self.values, self.mass = ([[] for _ in range(layers)] for _ in range(3))
        self.blocks = [[] for _ in range(layers)]  # representatives, all query heads side by side
        self.seen = [[] for _ in range(layers)]  # queries as they ask
        self.densities = [[] for _ in range(layers)]

    def __len__(self):
        return len(self.keys[0])

    @property
    def num_blocks(self):
        rule = self.rule
        return max(len(self) - rule.sinks - rule.local, 0) // rule.block_size

    def asking(self, query, position):
        rule = self.rule
        return turn(query, (rule.local if rule.distance is None else rule.distance) - position).ravel()

    def weights(self, layer, window):
        rule = self.rule
        if not len(window):
            return np.zeros(0)
        if rule.probe == "last":
            return np.eye(len(window))[-1]
        if rule.probe == "max_norm":
            return np.eye(len(window))[np.argmax((window**2).sum(1))]
        if rule.probe == "activation" and len(self.seen[layer]) >= rule.warmup:
            every = np.asarray([*self.seen[layer], *window])
            variance = every.var(axis=0, ddof=1)
            bias = ((window - every.mean(axis=0)) ** 2 / (variance + variance.mean() / 100)).mean(axis=1)
            return bias / bias.sum()
        return np.full(len(window), 1 / len(window))

    def choose(self, queries, expected):
        """Per layer, the blocks that are read, best first; queries ``[layer][T, H, E]``."""
        rule, n, chosen = self.rule, self.num_blocks, []
        self.pending, self.probes = [], []
        remaining = rule.top_blocks * self.layers
        for layer in range(self.layers):
            window = [self.asking(q, len(self) + t) for t, q in enumerate(queries[layer][:expected])]
            window = np.asarray(window).reshape(-1, queries[layer][0].size)
            probe = self.weights(layer, window) @ window if len(window) else np.zeros(queries[layer][0].size)
            self.probes.append(probe)
            norm = max(float(np.linalg.norm(probe)), 1e-300)
            scores = np.asarray([r @ probe / np.linalg.norm(r) / norm for r in self.blocks[layer][:n]])
            density = 1.0
            if n > 1:
                share = softmax(scores / rule.temperature)
                density = -(share * np.log(share)).sum() / np.log(n)
            self.pending.append(density)
            mean = [
                np.mean((self.densities[j] + ([density] if j == layer else []))[-rule.history :] or [0])
                for j in range(layer, self.layers)
            ]
            share = 1 / (self.layers - layer)
            if rule.dynamic and len(self.densities[0]) >= rule.min_windows:
                share = mean[0] / sum(mean)
            count = min(max(round(remaining * share), min(n, rule.least)), min(n, rule.most))
            remaining -= count
            chosen.append(np.argsort(-scores, kind="stable")[:count].tolist())
        return chosen

    def allowed(self, blocks, visible):
        """Mask ``[T, length + T]`` of one layer."""
        rule, length = self.rule, len(self)
        old = np.zeros(length, bool)
        old[: rule.sinks] = True
        old[rule.sinks + self.num_blocks * rule.block_size :] = True
        for block in blocks:
            start = rule.sinks + block * rule.block_size
            old[start : start + rule.block_size] = True
        return np.concatenate([np.broadcast_to(old, (len(visible), length)), visible], axis=1)

    def commit(self, queries, keys, values, path):
        """Keep the new tokens of ``path``; ``[layer][T, heads, E]`` each."""
        rule, before = self.rule, self.num_blocks
        if len(path):
            for layer in range(self.layers):
                if before > 1:
                    self.densities[layer].append(self.pending[layer])
        begin, first = len(self), rule.sinks + before * rule.block_size
        for layer in range(self.layers):
            for t in path:
                self.keys[layer].append(keys[layer][t])
                self.values[layer].append(values[layer][t])
                self.mass[layer].append(np.zeros(keys[layer].shape[1]))
            for place, t in enumerate(path, start=begin):
                query = queries[layer][t]
                self.seen[layer].append(self.asking(query, place))
                near = [s for s in range(place + 1) if s < rule.sinks or s >= first]
                for head in range(len(query)):
                    kv = head // self.group
                    scores = [self.keys[layer][s][kv] @ query[head] / query.shape[1] ** 0.5 for s in near]
                    for s, weight in zip(near, softmax(np.asarray(scores))):
                        if s > place - rule.local:
                            self.mass[layer][s][kv] += weight
        for layer in range(self.layers):
            for block in range(before, self.num_blocks):
                start = rule.sinks + block * rule.block_size
                slots = np.arange(start, start + rule.block_size)
                heads = []
                for kv in range(self.keys[layer][0].shape[0]):
                    most = sorted(slots, key=lambda s: -self.mass[layer][s][kv])[: rule.representatives]
                    heads += [np.mean([turn(self.keys[layer][s][kv], -s) for s in most], axis=0)] * self.group
                self.blocks[layer][block:] = [np.concatenate(heads)]

    def forget(self, count):
        """Drop the last tokens; what was seen stays."""
        for side in (self.keys, self.values, self.mass):
            for layer in side:
                del layer[len(layer) - count :]
