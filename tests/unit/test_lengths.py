from test_chat import byte_tokenizer

from polychromic.experiment.preflight.lengths import Lengths, length_report
from polychromic.records import Prompt, as_messages

TOKENIZER = byte_tokenizer()


def prompt(n_prompt: int, *n_references: int) -> Prompt:
    return Prompt(f"p{n_prompt}", as_messages("a" * n_prompt), tuple("b" * n for n in n_references))


def test_lengths_are_those_of_the_encoded_sequences():
    prompts = [prompt(1, 4), prompt(2, 9, 1), prompt(10)]
    report = length_report(TOKENIZER, prompts, max_prompt=9, max_reference=9, max_length=6)
    assert report.prompts == Lengths(n=3, minimum=1, median=2.0, p95=9.2, maximum=10, limit=9, n_over=1)
    # References count with the token that ends the turn: 5, 10 and 2 tokens; pairs: 6, 12 and 4.
    assert report.references == Lengths(n=3, minimum=2, median=5.0, p95=9.5, maximum=10, limit=9, n_over=1)
    assert report.pairs == Lengths(n=3, minimum=4, median=6.0, p95=11.4, maximum=12, limit=6, n_over=1)


def test_prompts_without_references_have_no_pair_lengths():
    report = length_report(TOKENIZER, [prompt(3)], max_prompt=9, max_reference=9, max_length=9)
    assert (report.references, report.pairs) == (None, None)


def test_lengths_read_as_a_line():
    report = length_report(TOKENIZER, [prompt(3), prompt(6)], max_prompt=5, max_reference=9, max_length=9)
    assert str(report.prompts) == "3 to 6 tokens (median 4.5, 95 % up to 5.8); 1 of 2 over 5"
