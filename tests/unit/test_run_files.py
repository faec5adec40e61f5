import re
from pathlib import Path

import pytest

from polychromic.run_folder import RUN_FILES, ArmFolder, Place, RunFolder, folder_name, misfit


@pytest.mark.parametrize(
    ("value", "shape", "said"),
    [
        ({"a": 1}, {"a": int}, ""),
        ({"a": 1, "b": []}, {"a": float, "c?": str}, ""),
        ({"a": 1.5}, {"a": int}, "a: expected a whole number, found 1.5"),
        ({"a": True}, {"a": int}, "a: expected a whole number, found True"),
        ({"a": 1}, {"a": bool}, "a: expected true or false, found 1"),
        ({}, {"a": int}, "a is missing"),
        ({"a": {"b": [{"c": "x"}, {}]}}, {"a": {"b": [{"c": str}]}}, "a.b[1].c is missing"),
        ({"a": None}, {"a": (float, None)}, ""),
        ({"a": "x"}, {"a": (float, None)}, "a: expected a number, found 'x'"),
        ({"a": {"b": "x"}}, {"a": ({"b": int}, None)}, "a.b: expected a whole number, found 'x'"),
        ({"step": 1, "x": []}, {"step": int, "*": (float, None)}, "x: expected a number, found []"),
        ([1], {"a": int}, "the content: expected an object, found [1]"),
        ({"a": 1}, [int], "the content: expected a list, found {'a': 1}"),
    ],
)
def test_a_misfit_names_the_key_and_what_was_expected(value, shape, said):
    assert misfit(value, shape) == said


@pytest.mark.parametrize("name", ["_mine", ".hidden", "größer", "a b", "", "x" * 65])
def test_a_name_that_names_no_folder_is_refused_with_all_that_is_asked_of_one(name):
    """`_mine` was refused with "expected letters, digits, '.', '_' and '-'", which is all that it has."""
    with pytest.raises(
        ValueError, match=r"arms: expected letters, .* of ASCII, at most 64 with a letter or a digit first"
    ):
        folder_name(name, place="arms: ")


def test_every_file_has_a_way_on():
    assert all("delete" in one.way_on or "put a copy" in one.way_on for one in RUN_FILES.values())


def test_the_documented_files_are_those_of_the_code():
    """Two lists of what a run folder holds would drift apart."""
    text = (Path(__file__).parents[2] / "docs" / "run-folder.md").read_text(encoding="utf-8")
    of_run, of_arm = text.split("## One arm")
    for kind, part in ((RunFolder, of_run), (ArmFolder, of_arm)):
        names = [place.name for place in vars(kind).values() if isinstance(place, Place)]
        assert sorted(re.findall(r"^\| `(.+?)` \|", part, re.MULTILINE)) == sorted(names)
