"""Says whether a text could be a slogan at all."""


def good(prompt, text):
    """Passes one line of two to eight words that has not merely repeated the question."""
    words = text.split()
    return "\n" not in text.strip() and 2 <= len(words) <= 8 and text.strip() not in prompt.text
