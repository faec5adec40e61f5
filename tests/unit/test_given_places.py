"""Files of generations on the command line and in the folder of their comparison: none is passed over, none is lost."""

import pytest

from polychromic.experiment.external import split_arguments


@pytest.mark.parametrize("name", ["diversity", "model", "training", "task", "run", "generations"])
def test_an_arm_may_have_the_name_of_a_section(name):
    """Past bug: `base=b.jsonl diversity=d.jsonl` compared the first file alone: the second was taken for a section
    that has no part in it, and left out without a word."""
    assert split_arguments(["base=b.jsonl"], [f"{name}=d.jsonl"]) == ({"base": ["b.jsonl"], name: ["d.jsonl"]}, [])
    sections = ["name=x", "seeds=[1]", f"{name}.key=d.jsonl", f"{name}={{key: 1}}", f"{name}=null", f"{name}="]
    assert split_arguments(["base=b.jsonl"], sections) == ({"base": ["b.jsonl"]}, sections)
