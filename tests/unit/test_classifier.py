"""`same_answer: classifier`: a pairwise cross-encoder, tried with tiny ones made here."""

import numpy as np
import pytest

from polychromic.errors import ModelError
from polychromic.records import Prompt, as_messages
from polychromic.tasks.partitions.classifier import ClassifierEquivalence
from polychromic.tasks.partitions.settings import SameAnswer

PROMPT = Prompt("p", as_messages("Name a planet."))
WORDS = ["mars", "venus", "it", "is", "red", "hot"]


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory):
    """Writes a BERT of 4 dimensions that classifies pairs: random, or all zero but for the bias of its last layer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}

    def build(bias=None, n_labels=1):
        folder = tmp_path_factory.mktemp("cross-encoder")
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )  # fmt: skip
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
            model_max_length=32, model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        ).save_pretrained(folder)  # fmt: skip
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(vocabulary), hidden_size=4, num_hidden_layers=1, num_attention_heads=1,
            intermediate_size=8, max_position_embeddings=32, num_labels=n_labels, initializer_range=2.0,
        )  # fmt: skip
        model = BertForSequenceClassification(config)
        if bias is not None:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.zero_()
                model.classifier.bias += torch.tensor(bias)
        model.save_pretrained(folder)
        return str(folder)

    return build


@pytest.fixture
def classifier(tmp_path):
    def build(model, **keys):
        return ClassifierEquivalence(SameAnswer(kind="classifier", model=model, **keys), tmp_path / "cache")

    return build


def labels(equivalence, texts):
    return equivalence.partitions([(PROMPT, texts)])[0].labels_N.tolist()


@pytest.mark.parametrize(
    ("bias", "keys", "expected"),
    [
        ([1.0], {}, [0, 0, 0]), ([-1.0], {}, [0, 1, 2]),  # sigmoid(±1) = 0.73, 0.27
        ([1.0], {"threshold": 0.74}, [0, 1, 2]), ([-1.0], {"threshold": 0.26}, [0, 0, 0]),
        ([0.0, 1.0], {}, [0, 0, 0]), ([0.0, 1.0], {"same_label": 0}, [0, 1, 2]),  # softmax: 0.27, 0.73
        ([3.0, 0.0, 1.0], {"same_label": 0}, [0, 0, 0]),
    ],
)  # fmt: skip
def test_a_classifier_of_known_behaviour_divides_as_it_says(cross_encoder, classifier, bias, keys, expected):
    equivalence = classifier(cross_encoder(bias, len(bias)), **keys)
    assert labels(equivalence, ["mars", "venus", "it is hot"]) == expected


@pytest.mark.parametrize("n_labels", [1, 2])
def test_probabilities_are_those_of_the_plain_model_and_the_partition_is_theirs(cross_encoder, classifier, n_labels):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = cross_encoder(None, n_labels)
    tokenizer, model = (kind.from_pretrained(folder) for kind in (AutoTokenizer, AutoModelForSequenceClassification))

    def probability(a, b):
        with torch.no_grad():
            logits = model.eval()(**tokenizer(a, b, return_tensors="pt")).logits[0]
        return float(torch.sigmoid(logits[0]) if n_labels == 1 else torch.softmax(logits, 0)[1])

    texts = ["mars", "it is mars", "venus", "red", "hot hot", "it is red", "venus is hot"]
    pairs = [(a, b) for a in texts for b in texts]
    expected = [probability(*pair) for pair in pairs]
    threshold = float(np.median(expected))
    equivalence = classifier(folder, threshold=threshold)
    assert equivalence.probabilities(pairs) == pytest.approx(expected, abs=1e-6)
    same = dict(zip(pairs, (p >= threshold for p in expected), strict=True))
    firsts: list[str] = []
    greedy = []
    for text in texts:
        joined = next((c for c, first in enumerate(firsts) if same[first, text]), len(firsts))
        firsts += [text] if joined == len(firsts) else []
        greedy.append(joined)
    assert 1 < len(firsts) < len(texts)
    assert labels(equivalence, texts) == greedy


def test_a_round_of_all_groups_is_one_batch_and_no_pair_is_computed_twice(cross_encoder, classifier, monkeypatch):
    folder = cross_encoder([-1.0])
    equivalence, batches = classifier(folder), []
    compute = equivalence.probabilities
    monkeypatch.setattr(equivalence, "probabilities", lambda pairs: batches.append(len(pairs)) or compute(pairs))
    other = Prompt("q", as_messages("Another."))
    groups = [(PROMPT, ["mars", "venus", "red"]), (other, ["mars", "venus", "hot", "mars"])]
    found = [one.labels_N.tolist() for one in equivalence.partitions(groups)]
    assert found == [[0, 1, 2], [0, 1, 2, 0]]
    assert batches == [3, 2]  # mars against venus, red, hot; then venus against red, hot
    again = classifier(folder)
    monkeypatch.setattr(again, "probabilities", lambda pairs: pytest.fail("answers are kept on disk"))
    assert [one.labels_N.tolist() for one in again.partitions(groups)] == found


def test_the_name_states_weights_threshold_and_rule(cross_encoder, classifier):
    first, second = cross_encoder([1.0]), cross_encoder([-1.0])
    name = classifier(first, threshold=0.102, rule="transitive", max_length=20).name
    assert name.endswith(", same from 0.102, 20 tokens, transitive closure")
    weights = {classifier(folder).name.split("@")[1] for folder in (first, second)}
    assert len(weights) == 2


def test_hostile_and_long_texts_are_classified(cross_encoder, classifier):
    equivalence = classifier(cross_encoder([1.0]))
    assert labels(equivalence, ["mars " * 30_000, "\ud800 mars", ""]) == [0, 0, 0]


def test_what_is_no_classifier_is_refused_in_words(cross_encoder, classifier, tmp_path):
    with pytest.raises(ModelError, match=r"has 2 labels, and task\.same_answer\.same_label is 2"):
        labels(classifier(cross_encoder([0.0, 1.0], 2), same_label=2), ["a", "b"])
    with pytest.raises(ModelError, match=r"task.same_answer.model .*nowhere"):
        labels(classifier(str(tmp_path / "nowhere")), ["a", "b"])


def test_a_model_without_a_trained_head_is_refused(cross_encoder, classifier, tmp_path):
    """Its head would be random, and so would every cluster."""
    from transformers import AutoTokenizer, BertModel

    folder = cross_encoder(None)
    BertModel.from_pretrained(folder).save_pretrained(tmp_path / "bare")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "bare")
    with pytest.raises(ModelError, match="missing and would be random"):
        labels(classifier(str(tmp_path / "bare")), ["a", "b"])
