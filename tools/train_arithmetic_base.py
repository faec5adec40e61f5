"""Train the tiny arithmetic model that ships with the package.

    python tools/train_arithmetic_base.py --steps 2600

A Llama of 0.86 M parameters learns to answer `1,4,6,8=24:` with one random solution, by plain cross-entropy on
random solved problems of the training split (validation and test problems are never drawn). It is left far from
perfect on purpose: it is the starting point of the diversity experiments.
"""

import argparse

from tiny_model import PACKAGED, batches, build_model, train
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from polychromic.tasks.arithmetic import random_problems

CHARACTERS = "0123456789+-*/()=,:"
SPECIAL = ["<pad>", "<eos>", "<unk>"]
OUT = PACKAGED / "arithmetic_tiny"
POSITIONS = 64


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_max_length=POSITIONS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def main() -> None:
    """Train, report the loss as it falls, and save model and tokenizer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    arguments = parser.parse_args()

    tokenizer = build_tokenizer()
    model = build_model(tokenizer, "arithmetic-base", POSITIONS)
    solved = ((problem.text, solution) for problem, solution in random_problems("train", "base-model"))
    train(model, batches(tokenizer, solved, arguments.batch), arguments.steps, arguments.learning_rate)
    model.save_pretrained(OUT)
    tokenizer.save_pretrained(OUT)


if __name__ == "__main__":
    main()
