"""PUCT tree search in plain Python objects."""

import dataclasses
import math


@dataclasses.dataclass
class Node:
    token: int
    pair: tuple[int, int]
    weight: float
    depth: int
    visits: int = 0
    value: float = 0.0
    children: list["Node"] = dataclasses.field(default_factory=list)
    expanded: bool = False


def simulate(rows, pair, depth, simulations, c1, c2, reward) -> Node:
    """``rows[pair]`` lists ``(token, weight)``, heaviest first. Trees of full depth only: nothing is rolled out."""
    root = Node(-1, tuple(pair), 0.0, 0)

    def gain(node, child):
        return child.weight if reward == "intended" else dict(rows[node.pair]).get(node.pair[1], 0.0)

    for _ in range(simulations):
        node, path, total = root, [root], 0.0
        while node.children and node.depth < depth:

            def score(child, parent=node):
                if child.visits == 0:
                    return math.inf
                explore = c1 + math.log((parent.visits + c2 + 1) / c2)
                return child.value / child.visits + explore * child.weight * math.sqrt(parent.visits) / (
                    1 + child.visits
                )

            child = max(node.children, key=score)
            total += gain(node, child)
            node = child
            path.append(node)
        if not node.expanded and node.depth < depth:
            node.expanded = True
            node.children = [Node(t, (node.pair[1], t), w, node.depth + 1) for t, w in rows[node.pair]]
            if node.children:
                total += gain(node, node.children[0])
                node = node.children[0]
                path.append(node)
        assert node.depth == depth or not node.children
        for visited in path:
            visited.visits += 1
            visited.value += 1 + total
    return root


def most_visited(visits, parents, tokens, count) -> list[tuple[int, ...]]:
    """Paths of the most visited nodes, the one made first where visits are equal."""
    order = sorted((i for i in range(1, len(visits)) if visits[i] > 0), key=lambda i: (-visits[i], i))[:count]

    def path(node):
        return () if node == 0 else (*path(parents[node]), int(tokens[node]))

    return [path(node) for node in order]
