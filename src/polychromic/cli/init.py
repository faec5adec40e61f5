"""Writes an experiment file to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_TEMPLATE = """\
# An experiment for `polychromic run {file}`. Every key can be changed on the command line: training.steps=20
name: {name}
seeds: [0, 1, 2]              # three or more, so that luck in training shows

task:
  name: custom                # or: arithmetic (built in), replies (a relevance classifier judges)
  train: train.jsonl          # one JSON object per line: {{"prompt": "...", "references": ["...", "..."]}}
  validation: validation.jsonl
  test: test.jsonl            # paths are relative to this file
  checker: rouge_l            # exact_match, contains, rouge_l, module:function or checks.py:function
  pass_threshold: 0.5         # a reward of at least this passes

model:
  source: smollm2-135m-instruct   # any hub id of a causal language model, or a folder
  # quantization: nf4         # QLoRA; needs a CUDA device and `pip install 'polychromic[qlora]'`
  adapter: {{rank: 16, alpha: 32}}

training:
  loss: sft          # cross-entropy on the references; `rl`: policy gradient on the checker's word
  steps: 80
  prompts_per_step: 8
  learning_rate: 2.0e-4
  max_new_tokens: 64

diversity:
  objective: coverage         # distinct clusters among the answers that pass; `distance`: gated semantic distance
  set_size: 4
  num_samples: 8              # generations per prompt for the diversity term
  sample_every: 3

arms:                         # what each arm changes; one of them is the baseline
  baseline: {{diversity: {{weight: 0.0}}}}
  moderate: {{diversity: {{weight: 1.0}}}}

evaluation:
  num_prompts: 100
  num_samples: 16
  max_new_tokens: 64
  untrained: true             # the model before training is sampled too: shown beside the arms, not judged
  embedder: minilm            # for semantic distance, Vendi score and clusters
  tokens: auto                # or words, characters, unicode (scripts without spaces), model, code
  sampling: [{{temperature: 1.0}}, {{temperature: 0.7}}]   # the first one is judged; all draw the frontier

comparison:
  baseline: baseline
  minimum:                    # what you must see to call it a success
    - {{metric: distinct_2, direction: higher, relative_change: 0.12}}
    - {{metric: pass@10, direction: higher, relative_change: 0.25}}
    - {{metric: self_bleu, direction: lower, relative_change: 0.10}}
    - {{metric: pass@1, direction: not_worse, margin: 0.02}}
"""


def experiment_template(name: str) -> str:
    """Writes the YAML text of an experiment called `name`, ready to be edited."""
    return _TEMPLATE.format(name=name, file=f"{name}.yaml")


def init(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")] = Path(
        "experiment.yaml"
    ),
) -> None:
    """Write a commented experiment file to start from."""
    from polychromic.errors import ConfigError
    from polychromic.files import user_path

    path = user_path(path)
    if path.exists() or path.is_symlink():
        raise ConfigError(f"{path} exists already; name another file")
    try:
        path.write_text(experiment_template(path.stem), encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written ({error.strerror}); name a file in a folder that is there and that you may "
            "write to"
        ) from error
    typer.echo(f"wrote {path}; edit it, then: polychromic run {path}")
