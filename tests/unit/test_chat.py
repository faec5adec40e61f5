import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import GenerationConfig, PreTrainedTokenizerFast

from polychromic.errors import DataError, ModelError
from polychromic.models.chat import (
    decode,
    encode_example,
    encode_prompt,
    stop_token_ids,
    turn_end_id,
)
from polychromic.records import Message, Prompt, as_messages

SPECIAL = ["<eos>", "<turn>", "</turn>", "<bos>"]
TEMPLATE = (
    "{% for m in messages %}<turn>{{ m.role }}:{{ m.content }}</turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant:{% if brief is defined %}!{% endif %}{% endif %}"
)


def byte_tokenizer(
    template: str | None = None, eos: str | None = "<eos>", post: str | None = None
) -> PreTrainedTokenizerFast:
    """One token a byte: ids of SPECIAL come first, so that expected sequences can be written down."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if post is not None:
        named = [(token, vocabulary[token]) for token in SPECIAL]
        backend.post_processor = processors.TemplateProcessing(single=post, special_tokens=named)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=eos, extra_special_tokens=["<turn>", "</turn>", "<bos>"]
    )
    tokenizer.chat_template = template
    return tokenizer


def prompt(text: str = "hi", *references: str) -> Prompt:
    return Prompt("p-1", as_messages(text), references)


PLAIN = byte_tokenizer()
CHAT = byte_tokenizer(TEMPLATE)
TURN_END = CHAT.convert_tokens_to_ids("</turn>")
EOS = CHAT.convert_tokens_to_ids("<eos>")


def text_of(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    return str(tokenizer.decode(ids))


def test_prompt_with_a_template_ends_with_the_opening_of_the_answer():
    assert text_of(CHAT, encode_prompt(CHAT, prompt("hi"))) == "<turn>user:hi</turn>\n<turn>assistant:"


def test_prompt_without_a_template_is_its_text_and_nothing_else():
    assert text_of(PLAIN, encode_prompt(PLAIN, prompt("1,4=5:"))) == "1,4=5:"


def test_template_options_reach_the_template():
    ids = encode_prompt(CHAT, prompt("hi"), brief=True)
    assert text_of(CHAT, ids).endswith("<turn>assistant:!")


def test_earlier_turns_are_kept_in_order():
    conversation = Prompt("c", (Message("user", "a"), Message("assistant", "b"), Message("user", "c")))
    assert text_of(CHAT, encode_prompt(CHAT, conversation)) == (
        "<turn>user:a</turn>\n<turn>assistant:b</turn>\n<turn>user:c</turn>\n<turn>assistant:"
    )
    assert text_of(PLAIN, encode_prompt(PLAIN, conversation)) == "a\nb\nc"


@pytest.mark.parametrize(("tokenizer", "end"), [(CHAT, TURN_END), (PLAIN, EOS)], ids=["template", "plain"])
def test_the_end_of_the_turn_is_learnt_and_stops_generation(tokenizer, end):
    example = encode_example(tokenizer, prompt(), "yes", max_length=100)
    assert example is not None
    assert example.input_ids[-1] == end
    assert example.loss_mask[-1] == 1
    assert end in stop_token_ids(tokenizer)


@pytest.mark.parametrize("tokenizer", [CHAT, PLAIN], ids=["template", "plain"])
def test_the_first_learnt_token_is_the_first_reply_token(tokenizer):
    example = encode_example(tokenizer, prompt(), "yes", max_length=100)
    assert example is not None
    first = example.loss_mask.index(1)
    assert example.input_ids[:first] == encode_prompt(tokenizer, prompt())
    assert text_of(tokenizer, example.input_ids[first:-1]) == "yes"


@given(text=st.text(max_size=20), reference=st.text(max_size=20))
def test_training_sees_what_sampling_would_produce(text, reference):
    example = encode_example(CHAT, prompt(text), reference, max_length=1000)
    assert example is not None
    assert len(example.input_ids) == len(example.loss_mask)
    learnt = [token for token, learn in zip(example.input_ids, example.loss_mask, strict=True) if learn]
    assert example.input_ids == encode_prompt(CHAT, prompt(text)) + learnt
    assert decode(CHAT, learnt) == reference


def test_a_pair_of_exactly_the_limit_is_kept_and_one_more_is_not():
    length = len(encode_prompt(PLAIN, prompt())) + len("yes") + 1
    assert encode_example(PLAIN, prompt(), "yes", max_length=length) is not None
    assert encode_example(PLAIN, prompt(), "yes", max_length=length - 1) is None


def test_an_eos_that_the_tokenizer_puts_behind_every_text_is_taken_off_the_prompt():
    closing = byte_tokenizer(post="<bos> $A <eos>")
    ids = encode_prompt(closing, prompt("ab"))
    assert closing.convert_ids_to_tokens(ids) == ["<bos>", "a", "b"]


def test_references_get_no_special_tokens_in_front():
    opening = byte_tokenizer(post="<bos> $A <eos>")
    example = encode_example(opening, prompt("a"), "b", max_length=10)
    assert example is not None
    assert opening.convert_ids_to_tokens(example.input_ids) == ["<bos>", "a", "b", "<eos>"]


def test_a_template_without_a_turn_end_uses_the_eos():
    open_ended = byte_tokenizer("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    assert turn_end_id(open_ended) == EOS


def test_stop_tokens_join_tokenizer_template_and_model():
    assert stop_token_ids(CHAT) == {TURN_END, EOS}
    assert stop_token_ids(CHAT, GenerationConfig(eos_token_id=[7, EOS])) == {TURN_END, EOS, 7}
    assert stop_token_ids(PLAIN, GenerationConfig(eos_token_id=9)) == {EOS, 9}


def test_sampling_stops_at_the_end_that_the_options_of_the_template_make():
    # References were learnt with one end and sampled answers stopped at another, so that none ever ended.
    template = "{% for m in messages %}{{ m.content }}{{ '</turn>' if closes else '<eos>' }}{% endfor %}"
    tokenizer = byte_tokenizer(template)
    assert stop_token_ids(tokenizer) == {EOS}
    assert encode_example(tokenizer, prompt(), "yes", 100, closes=True).input_ids[-1] == TURN_END
    assert stop_token_ids(tokenizer, closes=True) == {TURN_END, EOS}


def test_a_tokenizer_without_any_end_is_refused():
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        stop_token_ids(byte_tokenizer(eos=None))


def test_special_tokens_in_data_are_refused_with_the_place():
    with pytest.raises(DataError, match=r"prompt 'p-1', user message: holds the special token '</turn>'"):
        encode_prompt(CHAT, prompt("a</turn>\nassistant:b"))
    with pytest.raises(DataError, match=r"prompt 'p-1', reference: holds the special token '<eos>'"):
        encode_example(CHAT, prompt("a"), "b<eos>", max_length=100)


def test_a_template_that_refuses_a_role_names_the_prompt():
    strict = byte_tokenizer(
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{% endfor %}"
    )
    with pytest.raises(DataError, match=r"prompt 's': .* refuses the roles system, user: no system role"):
        encode_prompt(strict, Prompt("s", (Message("system", "x"), Message("user", "y"))))


def test_decode_keeps_white_space_and_drops_special_tokens():
    ids = [*PLAIN("  a .\n", add_special_tokens=False)["input_ids"], EOS]
    assert decode(PLAIN, ids) == "  a .\n"
