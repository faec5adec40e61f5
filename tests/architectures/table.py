"""Makes docs/models.md, one row for each architecture: `python -m tests.architectures.table [--workers N] [NAME]`"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from tests.architectures.rows import Row, examine_quietly
from tests.architectures.zoo import ARCHITECTURES

from polychromic.processes import open_worker_pool

_PAGE = Path("docs/models.md")
_HEAD = """# Models

Which architectures were tried, how they are computed, and how near that is to a plain forward pass. Each is a tiny
model with random weights (two layers, hidden size 32, a window of 8 tokens where it has windows) made from its
configuration in transformers {transformers}, with PEFT {peft} and torch {torch} on a CPU in float32. Made by
`make architectures`; `polychromic check MODEL` says the same of the model that you are going to use, at its real size.

- **Training** says how log-probabilities are computed: *packed* answers share their prompt's row; *padded* ones have a
  row each. The *product* head multiplies by the output matrix, the *own* head is whatever the model applies after its
  decoder (scaled or capped logits, a bias), *whole* is the model's own forward with all logits.
- **Sampling** is *merged* where the adapter is folded into the weights while decoding, *unmerged* where it is not, *by
  prompt* where prompts of different lengths cannot share a batch, *uncached* where the cache cannot be used.
- **Sampled, trained, gradient** are the largest differences of the self-check, in nats per token and relative to the
  gradient's norm. **Greedy** compares the likeliest tokens with those of transformers' `generate`. **Saved** is the
  difference between the cross-entropy that training logged and that of the saved adapter under plain PEFT, after three
  steps; **mismatch** is between sampled and trained log-probabilities in three steps from a reward.
"""


def main() -> None:
    """Examine the architectures and write the page; exits with 1 where a row is neither right nor refused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    names = options.names or sorted(ARCHITECTURES)
    rows = []
    with open_worker_pool(options.workers, torch.set_num_threads, (1,)) as pool:
        for row in pool.map(examine_quietly, names):
            rows.append(row)
            print(_line(row), flush=True)
    if not options.names:
        _PAGE.write_text(page(rows), encoding="utf-8")
    wrong = [row.name for row in rows if not row.is_right and not row.refused]
    n_right, n_refused = sum(row.is_right for row in rows), sum(bool(row.refused) for row in rows)
    print(f"{n_right} right, {n_refused} refused, {len(wrong)} wrong")
    if wrong:
        raise SystemExit(f"wrong: {', '.join(wrong)}")


def page(rows: Sequence[Row]) -> str:
    """The page as Markdown."""
    import peft
    import transformers

    right = [row for row in rows if not row.refused]
    refused = [row for row in rows if row.refused]
    head = _HEAD.format(
        transformers=transformers.__version__,
        peft=peft.__version__,
        torch=torch.__version__.partition("+")[0],
    )
    table = [
        "| architecture | class | training | sampling | sampled | trained | gradient | greedy | saved | mismatch |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *map(_line, right),
    ]
    listed = [f"- **{row.name}** ({row.kind}): {row.refused}" for row in refused]
    return "\n".join(
        [
            head,
            *table,
            "",
            f"{len(right)} architectures. Refused, with the sentence that says why:",
            "",
            *listed,
            "",
        ]
    )


def _line(row: Row) -> str:
    if row.refused:
        return f"| {row.name} | refused: {row.refused} |"
    differences = (row.sampling_difference, row.training_difference, row.gradient_difference)
    cells = [row.name, row.kind, row.training, row.sampling, *(f"{value:.0e}" for value in differences)]
    cells += [row.greedy, f"{row.saved_difference:.0e}", f"{row.mismatch:.0e}"]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
