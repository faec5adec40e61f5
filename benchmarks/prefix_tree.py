"""Samples many answers to each of many prompts and computes what answers share once.

Answers to one prompt that have the same tokens so far are one node of a tree: the model reads the prompt once and each
node once, whatever the number of answers in it and their temperatures. Each answer draws with uniform numbers of its
own, so that it is the answer that it would be alone, up to rounding. Trees of several prompts are read together, so
that the matrices stay large while some answers are still long. Written for Llama's layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional
from transformers.models.llama.modeling_llama import LlamaForCausalLM, rotate_half

_BLOCK = 32  # tokens by which the room for keys and values grows


@dataclass(slots=True)
class Answer:
    """One answer: its temperature, its uniform numbers [T] in [0, 1), and its tokens so far."""

    temperature: float
    uniforms_T: torch.Tensor
    token_ids: list[int] = field(default_factory=list)
    ended: bool = False


class PrefixTree:
    """The deepest nodes that the answers to one prompt have reached.

    Keys and values are kept of the prompt, once, and of each node's path below it: [B, heads, T, size].
    """

    def __init__(self, model: LlamaForCausalLM, prompt_ids: Sequence[int], answers: Sequence[Answer]) -> None:
        self.answers = list(answers)
        self.nodes = [self.answers]
        self.depth, self.n_read = 0, 0
        self._length = len(prompt_ids)
        output = model(torch.tensor([list(prompt_ids)]), use_cache=True, logits_to_keep=1)
        self.logits_BV: torch.Tensor = output.logits[:, -1]
        layers: Any = output.past_key_values.layers
        self._prompt = [(layer.keys[0], layer.values[0]) for layer in layers]
        self._own = [(keys[None, :, :0], values[None, :, :0]) for keys, values in self._prompt]

    @property
    def position(self) -> int:
        """The place of the nodes' next token in the whole sequence."""
        return self._length + self.depth

    def grow(self, ends: Callable[[list[int]], bool], max_new_tokens: int) -> list[int]:
        """Draws one token for each answer that goes on, and returns the last token of each node that is still to be
        read."""
        parents: list[int] = []
        tokens: list[int] = []
        children: list[list[Answer]] = []
        for parent, node in enumerate(self.nodes):
            by_token: dict[int, list[Answer]] = {}
            drawn = _draw(self.logits_BV[parent], node, self.depth)
            for token, answer in zip(drawn, node, strict=True):
                by_token.setdefault(token, []).append(answer)
            for token, group in by_token.items():
                token_ids = [*group[0].token_ids, token]
                ended = ends(token_ids)
                for answer in group:
                    answer.token_ids, answer.ended = token_ids, ended
                if not ended and len(token_ids) < max_new_tokens:
                    parents.append(parent)
                    tokens.append(token)
                    children.append(group)
        order = self._move(parents) if children else []
        self.nodes = [children[i] for i in order]
        self.n_read += len(children)
        return [tokens[i] for i in order]

    def _move(self, parents: Sequence[int]) -> list[int]:
        """Gives each child a place in what is kept, with room for one more token, and returns the children by place.

        One child of each parent takes over its place; only the others' keys and values are copied.
        """
        places: list[int | None] = [None] * len(parents)
        others: list[int] = []
        for child, parent in enumerate(parents):
            if parent < len(places) and places[parent] is None:
                places[parent] = child
            else:
                others.append(child)
        free = [place for place, child in enumerate(places) if child is None]
        for place, child in zip(free, others, strict=True):
            places[place] = child
        n_kept, _, length, _ = self._own[0][0].shape
        more = len(parents) + len(parents) // 2 - n_kept if len(parents) > n_kept else 0
        sources = [parents[child] for child in others]
        for number, pair in enumerate(self._own):
            kept = []
            for part in pair:
                roomy = functional.pad(part, (0, 0, 0, 0, 0, 0, 0, more)) if more else part
                if free:
                    roomy[free] = roomy[sources]
                if self.depth == length:
                    roomy = functional.pad(roomy[: len(parents)], (0, 0, 0, _BLOCK))
                kept.append(roomy)
            self._own[number] = (kept[0], kept[1])
        return [child for child in places if child is not None]

    def attend(self, number: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Attends from each node to the prompt and its own path.

        `queries` are [B, key heads, heads that share them, size], `keys` and `values` of the new token
        [B, key heads, size].
        """
        n_nodes, n_heads, n_shared, size = queries.shape
        end = self.depth + 1
        own_keys, own_values = (part[:n_nodes] for part in self._own[number])
        own_keys[:, :, self.depth], own_values[:, :, self.depth] = keys, values
        prompt_keys, prompt_values = self._prompt[number]
        by_head = queries.transpose(0, 1).reshape(n_heads, n_nodes * n_shared, size)
        to_prompt = (by_head @ prompt_keys.transpose(1, 2)).view(n_heads, n_nodes, n_shared, -1)
        to_own = queries @ own_keys[:, :, :end].transpose(2, 3)
        weights = torch.cat([to_prompt.transpose(0, 1), to_own], dim=-1).softmax(dim=-1)
        of_prompt, of_own = weights.split([self._length, end], dim=-1)
        by_head = of_prompt.transpose(0, 1).reshape(n_heads, n_nodes * n_shared, -1)
        read = (by_head @ prompt_values).view(n_heads, n_nodes, n_shared, size).transpose(0, 1)
        return read + of_own @ own_values[:, :, :end]


def sample_trees(
    model: LlamaForCausalLM,
    prompts: Iterable[tuple[Sequence[int], Sequence[Answer]]],
    max_new_tokens: int,
    ends: Callable[[list[int]], bool],
    nodes_at_once: int = 128,
    trees_at_once: int = 4,
) -> Iterator[PrefixTree]:
    """Draws the answers to each prompt (its tokens, and answers to fill in) and yields each tree that is complete.

    `ends` says of an answer's tokens whether it is over. A further prompt is begun where fewer nodes than
    `nodes_at_once` are left, of fewer trees than `trees_at_once`: a young tree has few nodes and is going to have many.
    """
    waiting = iter(prompts)
    trees: list[PrefixTree] = []
    while True:
        while len(trees) < trees_at_once and sum(len(tree.nodes) for tree in trees) < nodes_at_once:
            upcoming = next(waiting, None)
            if upcoming is None:
                break
            trees.append(PrefixTree(model, *upcoming))
        if not trees:
            return
        tokens = [tree.grow(ends, max_new_tokens) for tree in trees]
        yield from (tree for tree in trees if not tree.nodes)
        trees = [tree for tree in trees if tree.nodes]
        if trees:
            read_tokens(model, trees, [token for part in tokens for token in part])


def read_tokens(model: LlamaForCausalLM, trees: Sequence[PrefixTree], tokens: Sequence[int]) -> None:
    """Reads one token for each node of all trees, in their order, and sets the logits of the next."""
    config: Any = model.config
    heads, size = config.num_key_value_heads, config.head_dim
    sizes = [len(tree.nodes) for tree in trees]
    positions_B = torch.tensor([tree.position for tree in trees]).repeat_interleave(torch.tensor(sizes))
    states_BD = model.model.embed_tokens(torch.tensor(tokens))
    cos, sin = model.model.rotary_emb(states_BD, positions_B[:, None])  # [B, 1, size]

    def rotated(projected_BD: torch.Tensor) -> torch.Tensor:
        turned = projected_BD.view(len(tokens), -1, size)
        return turned * cos + rotate_half(turned) * sin

    for number, layer in enumerate(model.model.layers):
        attention: Any = layer.self_attn
        normed_BD = layer.input_layernorm(states_BD)
        queries = rotated(attention.q_proj(normed_BD)).view(len(tokens), heads, -1, size) * attention.scaling
        keys = rotated(attention.k_proj(normed_BD))
        values = attention.v_proj(normed_BD).view(len(tokens), heads, size)
        parts = zip(trees, queries.split(sizes), keys.split(sizes), values.split(sizes), strict=True)
        read = torch.cat([tree.attend(number, q, k, v) for tree, q, k, v in parts])
        states_BD = states_BD + attention.o_proj(read.reshape(len(tokens), -1))
        states_BD = states_BD + layer.mlp(layer.post_attention_layernorm(states_BD))
    logits = model.lm_head(model.model.norm(states_BD)).split(sizes)
    for tree, logits_BV in zip(trees, logits, strict=True):
        tree.logits_BV = logits_BV
        tree.depth += 1


def _draw(logits_V: torch.Tensor, answers: Sequence[Answer], step: int) -> list[int]:
    """Returns one token for each answer of a node, by inverse transform sampling at its own uniform number."""
    tokens: dict[int, int] = {}
    for temperature in dict.fromkeys(answer.temperature for answer in answers):
        chosen = [i for i, answer in enumerate(answers) if answer.temperature == temperature]
        cumulative_V = (logits_V.float() / temperature).softmax(dim=-1).cumsum(dim=-1, dtype=torch.float64)
        uniforms = torch.stack([answers[i].uniforms_T[step] for i in chosen])
        drawn = torch.searchsorted(cumulative_V, uniforms * cumulative_V[-1], right=True)
        tokens |= dict(zip(chosen, drawn.clamp(max=len(logits_V) - 1).tolist(), strict=True))
    return [tokens[i] for i in range(len(answers))]
