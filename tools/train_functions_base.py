"""Train the tiny model of short Python functions that ships with the package.

    python tools/train_functions_base.py --steps 800

A Llama of 0.9 M parameters learns to answer a problem of the task `functions` with one random solution of a random
style, by plain cross-entropy on random problems of the training split (validation and test problems are never drawn).
It is left far from perfect on purpose: it is the starting point of the experiment in `experiments/code.yaml`.
"""

import argparse
from collections.abc import Iterator
from itertools import islice

from tiny_model import PACKAGED, batches, build_model, train
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from polychromic.tasks.code.functions import random_functions
from polychromic.tasks.code.styles import draw_solution

SPECIAL = ["<pad>", "<eos>"]
VOCABULARY = 512
POSITIONS = 256
POOL = 16


def solved(name: str) -> Iterator[tuple[str, str]]:
    """Endless pairs of a problem and one of its solutions."""
    for function, draw in random_functions("train", name):
        yield function.text, draw_solution(function, draw)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Pairs of bytes, merged as often as they occur in the same kind of text; digits stay apart."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (prompt + solution for prompt, solution in islice(solved("tokenizer"), 20_000))
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        model_max_length=POSITIONS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def main() -> None:
    """Train, report the loss as it falls, and save model and tokenizer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--out", default=str(PACKAGED / "functions_tiny"))
    arguments = parser.parse_args()

    tokenizer = build_tokenizer()
    model = build_model(tokenizer, "functions-base", POSITIONS)
    data = batches(tokenizer, solved("base-model"), arguments.batch, POOL)
    train(model, data, arguments.steps, arguments.learning_rate)
    model.save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)


if __name__ == "__main__":
    main()
