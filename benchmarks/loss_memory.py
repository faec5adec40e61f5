"""Peak memory of token log-probabilities and their gradient: chunked against the whole [B, T, V] at once.

    python benchmarks/loss_memory.py [--tokens 2048] [--vocabulary 49152] [--width 576]

Each runs in a process of its own; what is printed is the growth of its peak resident memory over its inputs, in MiB
and in copies of the float32 logits [B, T, V]. The default is SmolLM2-135M's head.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

import torch

from polychromic.objective.losses import chunked_token_logprobs


def peak_mib() -> float:
    """Peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(kind: str, tokens: int, vocabulary: int, width: int) -> None:
    """Print the growth in MiB and the seconds of one forward and backward pass, the head trained as well."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, tokens, width, generator=generator).requires_grad_()
    head = torch.randn(vocabulary, width, generator=generator).mul_(0.02).requires_grad_()
    ids = torch.randint(0, vocabulary, (1, tokens), generator=generator)
    before, started = peak_mib(), time.perf_counter()
    if kind == "chunked":
        logprobs = chunked_token_logprobs(hidden, head, ids)
    else:
        logprobs = torch.log_softmax(hidden @ head.T, dim=-1).gather(-1, ids[..., None])
    logprobs.sum().backward()
    print(f"{peak_mib() - before:.0f} {time.perf_counter() - started:.1f}")


def main() -> None:
    """Print a table of both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048, help="B·T")
    parser.add_argument("--vocabulary", type=int, default=49152)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--only", choices=["chunked", "whole"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sizes = [arguments.tokens, arguments.vocabulary, arguments.width]
    if arguments.only:
        measure(arguments.only, *sizes)
        return
    logits_mib = arguments.tokens * arguments.vocabulary * 4 / 2**20
    print(f"[B, T, V] in float32: {logits_mib:.0f} MiB")
    for kind in ("whole", "chunked"):
        command = [sys.executable, __file__, "--only", kind]
        for name, value in zip(("tokens", "vocabulary", "width"), sizes, strict=True):
            command += [f"--{name}", str(value)]
        growth, seconds = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        print(f"{kind}: {growth} MiB, {float(growth) / logits_mib:.2f} copies, {seconds} s")


if __name__ == "__main__":
    main()
