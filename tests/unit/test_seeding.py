"""Named child seeds."""

from polychromic.seeding import child_seed, numpy_generator


def test_seeds_depend_on_the_path_alone():
    assert child_seed("run", 0, "step", 3) == child_seed("run", 0, "step", 3)
    # A change of this value would silently change every experiment ever run.
    assert child_seed("run", 0) == 506627128525383610


def test_neighbouring_paths_differ():
    seeds = {child_seed("a", "bc"), child_seed("ab", "c"), child_seed("abc"), child_seed(1), child_seed("1")}
    assert len(seeds) == 5


def test_generators_repeat():
    assert numpy_generator("x", 1).random() == numpy_generator("x", 1).random()
