"""Says which answer a text gives to "Name a …": the first of the right ones that it names."""

import re


def named(prompt, text):
    """Returns the right answer that the text names first, in singular or plural; its words where it names none."""
    forms = {}
    for right_one in prompt.references:
        word = right_one.casefold()
        forms |= {word: right_one, word + "s": right_one, word + "es": right_one}
    words = re.findall(r"\w+", text.casefold())
    return next((forms[word] for word in words if word in forms), " ".join(words))


def right(prompt, text):
    """Tells whether the text names a right answer."""
    return named(prompt, text) in prompt.references
