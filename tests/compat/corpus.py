"""Small made-up corpora for the programs here: drawn from a grammar with a seed of their own, the same everywhere.

SCALE=10 in the environment makes them ten times as large, for timing.
"""

import os
import random

SCALE = int(os.environ.get("SCALE", "1"))

NOUNS = ["dog", "cat", "bird", "fish", "child", "teacher", "king", "river"]
VERBS = ["sees", "likes", "chases", "feeds", "hears"]
ADJECTIVES = ["big", "small", "old", "young", "red"]
DETERMINERS = ["the", "a", "every"]


class Entry:
    """A word with its tag and its head (0: the root)."""

    def __init__(self, id, form, pos, head):
        self.id, self.form, self.pos, self.head = id, form, pos, head


def noun_phrase(rng):
    """[(word, tag, head within the phrase, or None for the phrase's head)]"""
    words = [(rng.choice(DETERMINERS), "D")] + [(rng.choice(ADJECTIVES), "J") for _ in range(rng.choice([0, 0, 1, 2]))]
    return [*words, (rng.choice(NOUNS), "N")]


def sentence(rng):
    """A projective dependency tree over subject, verb, object and perhaps a phrase that hangs on the object."""
    subject, verb, object_ = noun_phrase(rng), rng.choice(VERBS), noun_phrase(rng)
    words, heads = [], []

    def phrase(part, head):
        last = len(words) + len(part)
        for i, word in enumerate(part):
            words.append(word)
            heads.append(last if i + 1 < len(part) else head)
        return last

    phrase(subject, len(subject) + 1)
    words.append((verb, "V"))
    heads.append(0)
    at_object = phrase(object_, len(subject) + 1)
    if rng.random() < 0.4:
        words.append(("of", "P"))
        heads.append(at_object)
        phrase(noun_phrase(rng), len(words))
    return [Entry(i + 1, form, pos, head) for i, ((form, pos), head) in enumerate(zip(words, heads))]


def treebank(n, seed=1):
    rng = random.Random(seed)
    return [sentence(rng) for _ in range(n * SCALE)]


def tagged(n, seed=2):
    return [[(entry.form, entry.pos) for entry in s] for s in treebank(n, seed)]


def pairs(n, seed=3):
    """(source, target) strings: the target is the source backwards, its vowels doubled."""
    rng = random.Random(seed)
    result = []
    for _ in range(n * SCALE):
        source = "".join(rng.choice("abcdeiou") for _ in range(rng.randint(2, 5)))
        result.append((source, "".join(c * 2 if c in "aeiou" else c for c in reversed(source))))
    return result


def trees(n, seed=4):
    """Binary trees as nested (label, left, right) and (label, word); the label tells whether good words are more than bad ones."""
    rng = random.Random(seed)
    good, bad = ["good", "great", "fine"], ["bad", "poor", "awful"]

    def grow(words):
        score = sum(w in good for w in words) - sum(w in bad for w in words)
        label = 1 + (score > 0) - (score < 0)
        if len(words) == 1:
            return (label, words[0])
        cut = rng.randint(1, len(words) - 1)
        return (label, grow(words[:cut]), grow(words[cut:]))

    return [grow([rng.choice(good + bad + ["film", "plot", "very"]) for _ in range(rng.randint(2, 7))]) for _ in range(n * SCALE)]
