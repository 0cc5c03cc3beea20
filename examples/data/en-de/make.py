"""Makes the sentence pairs in this folder: English and German, from a small grammar.

    python examples/data/en-de/make.py              # writes train.txt.gz, dev.txt.gz, test.txt.gz

How long: two seconds. What to expect: the same files each time; a test compares them.

Every pair is drawn from the rules below and has one translation. The German ones have agreement of
articles, adjectives and pronouns in gender, number and case, verbs that ask for the dative, verbs
in two parts, and an order of words that depends on the kind of the clause.
"""

import gzip
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent
SIZES = {"train": 8000, "dev": 500, "test": 1000}


class Noun(NamedTuple):
    """Of both languages, with the kind of thing it means."""

    english: str
    plural: str
    german: str
    german_plural: str
    gender: str
    kind: str
    weak: str = ""  # not the nominative of the singular, where it differs


NOUNS = [
    Noun("man", "men", "Mann", "Männer", "m", "person"),
    Noun("boy", "boys", "Junge", "Jungen", "m", "person", "Jungen"),
    Noun("neighbour", "neighbours", "Nachbar", "Nachbarn", "m", "person", "Nachbarn"),
    Noun("teacher", "teachers", "Lehrer", "Lehrer", "m", "person"),
    Noun("woman", "women", "Frau", "Frauen", "f", "person"),
    Noun("sister", "sisters", "Schwester", "Schwestern", "f", "person"),
    Noun("doctor", "doctors", "Ärztin", "Ärztinnen", "f", "person"),
    Noun("child", "children", "Kind", "Kinder", "n", "person"),
    Noun("girl", "girls", "Mädchen", "Mädchen", "n", "person"),
    Noun("dog", "dogs", "Hund", "Hunde", "m", "animal"),
    Noun("bird", "birds", "Vogel", "Vögel", "m", "animal"),
    Noun("cat", "cats", "Katze", "Katzen", "f", "animal"),
    Noun("mouse", "mice", "Maus", "Mäuse", "f", "animal"),
    Noun("horse", "horses", "Pferd", "Pferde", "n", "animal"),
    Noun("sheep", "sheep", "Schaf", "Schafe", "n", "animal"),
    Noun("letter", "letters", "Brief", "Briefe", "m", "text"),
    Noun("newspaper", "newspapers", "Zeitung", "Zeitungen", "f", "text"),
    Noun("book", "books", "Buch", "Bücher", "n", "text"),
    Noun("tree", "trees", "Baum", "Bäume", "m", "thing"),
    Noun("key", "keys", "Schlüssel", "Schlüssel", "m", "thing"),
    Noun("lamp", "lamps", "Lampe", "Lampen", "f", "thing"),
    Noun("bag", "bags", "Tasche", "Taschen", "f", "thing"),
    Noun("picture", "pictures", "Bild", "Bilder", "n", "thing"),
    Noun("bicycle", "bicycles", "Fahrrad", "Fahrräder", "n", "thing"),
    Noun("garden", "gardens", "Garten", "Gärten", "m", "place"),
    Noun("town", "towns", "Stadt", "Städte", "f", "place"),
    Noun("kitchen", "kitchens", "Küche", "Küchen", "f", "place"),
    Noun("house", "houses", "Haus", "Häuser", "n", "place"),
    Noun("room", "rooms", "Zimmer", "Zimmer", "n", "place"),
]
LIVING, LIFELESS = "person animal", "text thing place"
ADJECTIVES = {  # English -> German, and the kinds of nouns that have it
    "old": ("alt", f"{LIVING} {LIFELESS}"),
    "small": ("klein", f"{LIVING} {LIFELESS}"),
    "big": ("groß", f"{LIVING} {LIFELESS}"),
    "beautiful": ("schön", f"{LIVING} {LIFELESS}"),
    "strange": ("seltsam", f"{LIVING} {LIFELESS}"),
    "new": ("neu", f"person {LIFELESS}"),
    "young": ("jung", LIVING),
    "friendly": ("freundlich", LIVING),
    "quiet": ("ruhig", f"{LIVING} place"),
    "white": ("weiß", f"animal {LIFELESS}"),
    "black": ("schwarz", f"animal {LIFELESS}"),
    "brown": ("braun", f"animal {LIFELESS}"),
}
STATES = {"tired": "müde", "hungry": "hungrig", "ill": "krank", "happy": "glücklich"}


class Verb(NamedTuple):
    """Its forms in both languages, as texts; + stands for a blank, | ends a prefix."""

    english: str  # base, third person, past, participle
    german: str  # prefix|infinitive, third person, plural, participle, and auxiliary if not haben
    objects: str = ""  # kinds of nouns; none: intransitive
    case: str = "acc"


ALL = "person animal text thing"
VERBS = [
    Verb("see sees saw seen", "sehen sieht sehen gesehen", ALL),
    Verb("find finds found found", "finden findet finden gefunden", ALL),
    Verb("paint paints painted painted", "malen malt malen gemalt", "person animal thing"),
    Verb("buy buys bought bought", "kaufen kauft kaufen gekauft", "animal text thing"),
    Verb("love loves loved loved", "lieben liebt lieben geliebt", "person animal"),
    Verb("write writes wrote written", "schreiben schreibt schreiben geschrieben", "text"),
    Verb("carry carries carried carried", "tragen trägt tragen getragen", "animal thing"),
    Verb("look+for looks+for looked+for looked+for", "suchen sucht suchen gesucht", ALL),
    Verb("invite invites invited invited", "ein|laden lädt laden eingeladen", "person"),
    Verb("call calls called called", "an|rufen ruft rufen angerufen", "person"),
    Verb("pick+up picks+up picked+up picked+up", "ab|holen holt holen abgeholt", ALL),
    Verb("take+along takes+along took+along taken+along", "mit|nehmen nimmt nehmen mitgenommen",
         ALL),
    Verb("help helps helped helped", "helfen hilft helfen geholfen", "person animal", "dat"),
    Verb("thank thanks thanked thanked", "danken dankt danken gedankt", "person", "dat"),
    Verb("follow follows followed followed", "folgen folgt folgen gefolgt sein", "person animal",
         "dat"),
    Verb("sleep sleeps slept slept", "schlafen schläft schlafen geschlafen"),
    Verb("wait waits waited waited", "warten wartet warten gewartet"),
    Verb("sing sings sang sung", "singen singt singen gesungen"),
    Verb("play plays played played", "spielen spielt spielen gespielt"),
    Verb("arrive arrives arrived arrived", "an|kommen kommt kommen angekommen sein"),
    Verb("get+up gets+up got+up got+up", "auf|stehen steht stehen aufgestanden sein"),
]  # fmt: skip
MODALS = {"can": "kann können", "must": "muss müssen", "will": "wird werden", "want": "will wollen"}

# endings by case and gender; p is the plural
ENDINGS = {
    "nom": {"m": "er", "f": "e", "n": "es", "p": "e"},
    "acc": {"m": "en", "f": "e", "n": "es", "p": "e"},
    "dat": {"m": "em", "f": "er", "n": "em", "p": "en"},
}
DEFINITE = {
    "nom": {"m": "der", "f": "die", "n": "das", "p": "die"},
    "acc": {"m": "den", "f": "die", "n": "das", "p": "die"},
    "dat": {"m": "dem", "f": "der", "n": "dem", "p": "den"},
}
RELATIVE = {**DEFINITE, "dat": {**DEFINITE["dat"], "p": "denen"}}


@dataclass
class Phrase:
    """A noun with what belongs to it, or a pronoun."""

    number: str  # s or p
    noun: Noun | None = None
    determiner: str = ""
    adjective: str = ""
    pronoun: tuple[str, str] = ("", "")
    relative: "Clause | None" = None  # whose subject is this noun

    def gender(self):
        """m, f, n, or p for the plural."""
        return "p" if self.number == "p" else self.noun.gender

    def pairs(self):
        """(adjective, noun), where there are both."""
        yield from [(self.adjective, self.noun.german)] if self.adjective else []
        yield from self.relative.pairs() if self.relative else []

    def english(self):
        """With article and adjective."""
        if not self.noun:
            return self.pronoun[0]
        name = self.noun.plural if self.number == "p" else self.noun.english
        determiner = self.determiner
        if determiner == "this" and self.number == "p":
            determiner = "these"
        words = [self.adjective, name] if self.adjective else [name]
        if determiner == "a":
            determiner = "an" if words[0][0] in "aeiou" else "a"
        text = " ".join([determiner, *words] if determiner else words)
        if self.relative:
            who = "who" if self.noun.kind == "person" else "that"
            text += f" {who} {self.relative.english_predicate(self.number)}"
        return text

    def german(self, case, negative=False):
        """In this case; `negative` makes an indefinite one negative: kein."""
        if not self.noun:
            return self.pronoun[1]
        gender = self.gender()
        stem = {"this": "dies", "my": "mein", "a": "ein"}.get(self.determiner, "")
        if negative and self.determiner in ("a", ""):
            stem = "kein"
        bare = stem in ("ein", "mein", "kein") and (
            (gender in "mn" and case == "nom") or (gender == "n" and case == "acc")
        )
        if self.determiner == "the":
            article = DEFINITE[case][gender]
        else:
            article = stem + ("" if bare else ENDINGS[case][gender]) if stem else ""
        if not article or bare:  # the adjective shows what the article does not
            ending = ENDINGS[case][gender]
        else:
            shown = case == "nom" or (case == "acc" and gender in "fn")
            ending = "e" if shown and gender != "p" else "en"
        name = self.noun.german
        if self.number == "p":
            name = self.noun.german_plural
            name += "n" if case == "dat" and name[-1] not in "ns" else ""
        elif self.noun.weak and case != "nom":
            name = self.noun.weak
        adjective = [ADJECTIVES[self.adjective][0] + ending] if self.adjective else []
        text = " ".join([*([article] if article else []), *adjective, name])
        if self.relative:
            who = RELATIVE["nom"][gender]
            text += f" , {who} {self.relative.german_final(self.number)} ,"
        return text


@dataclass
class Clause:
    """A subject and what is said of it."""

    subject: Phrase
    verb: Verb | None = None  # None: is tired
    tense: str = "present"  # past, perfect, or a modal
    object: Phrase | None = None
    place: Phrase | None = None
    state: str = ""
    negative: bool = False
    time: tuple[str, str] = field(default=("", ""))

    def pairs(self):
        """Pairs of words of which some are kept for the tests."""
        for phrase in (self.subject, self.object, self.place):
            yield from phrase.pairs() if phrase else ()
        if self.object and self.object.noun:
            yield self.verb.german, self.object.noun.german

    def english_parts(self, number):
        """(verb in front of the subject of a question, not, the other verb)."""
        plural, negation = number == "p", "not" if self.negative else ""
        if not self.verb:
            return "are" if plural else "is", negation, self.state
        base, third, past, participle = (
            form.replace("+", " ") for form in self.verb.english.split()
        )
        if self.tense == "present":
            return "do" if plural else "does", negation, (base, base if plural else third)
        if self.tense == "past":
            return "did", negation, (base, past)
        if self.tense == "perfect":
            return "have" if plural else "has", negation, participle
        if self.tense == "want":
            want = "want" if plural else "wants"
            return "do" if plural else "does", negation, (f"want to {base}", f"{want} to {base}")
        return self.tense, negation, base

    def english_rest(self):
        """Object and place."""
        words = []
        if self.object:
            words.append(self.object.english())
        if self.place:
            words.append(f"in {self.place.english()}")
        return words

    def english_predicate(self, number):
        """All but the subject."""
        first, negation, second = self.english_parts(number)
        if isinstance(second, tuple):
            base, inflected = second
            verb = [first, negation, base] if negation else [inflected]
        else:
            verb = [first, negation, second] if negation else [first, second]
        return " ".join([*verb, *self.english_rest()])

    def english(self):
        """As a statement."""
        text = f"{self.subject.english()} {self.english_predicate(self.subject.number)}"
        return f"{self.time[0]} {text}" if self.time[0] else text

    def english_question(self):
        """As a question."""
        first, negation, second = self.english_parts(self.subject.number)
        base = second[0] if isinstance(second, tuple) else second
        words = [first, self.subject.english(), negation, base, *self.english_rest()]
        return " ".join(word for word in words if word)

    def german_verb(self, number):
        """(finite verb, what ends the clause, the two of them where the finite one is last)."""
        plural = number == "p"
        if not self.verb:
            finite, state = "sind" if plural else "ist", STATES[self.state]
            return finite, state, f"{state} {finite}"
        infinitive, third, many, participle, *auxiliary = self.verb.german.split()
        prefix, _, stem = infinitive.rpartition("|")
        if self.tense == "present":
            finite = many if plural else third
            return finite, prefix, prefix + finite
        if self.tense in ("past", "perfect"):
            forms = ("ist", "sind") if auxiliary else ("hat", "haben")
            return forms[plural], participle, f"{participle} {forms[plural]}"
        finite = MODALS[self.tense].split()[plural]
        return finite, prefix + stem, f"{prefix}{stem} {finite}"

    def german_middle(self):
        """What stands between the two parts of the verb, without the subject."""
        words, negation = [], ["nicht"] if self.negative else []
        if self.object:
            indefinite = self.negative and self.object.determiner in ("a", "")
            words.append(self.object.german(self.verb.case, indefinite))
            negation = [] if indefinite else negation
        words += negation
        if self.place:
            words.append(f"in {self.place.german('dat')}")
        return words

    def german_final(self, number):
        """The rest of a clause whose verb is last."""
        return " ".join([*self.german_middle(), self.german_verb(number)[2]])

    def german_subordinate(self):
        """With the verb at the end."""
        return f"{self.subject.german('nom')} {self.german_final(self.subject.number)}"

    def german_inverted(self):
        """With the verb before the subject: a question, or after something else."""
        finite, last, _ = self.german_verb(self.subject.number)
        words = [finite, self.subject.german("nom"), *self.german_middle(), last]
        return " ".join(word for word in words if word)

    def german(self):
        """As a statement: the verb is second."""
        if self.time[1]:
            return f"{self.time[1]} {self.german_inverted()}"
        finite, last, _ = self.german_verb(self.subject.number)
        words = [self.subject.german("nom"), finite, *self.german_middle(), last]
        return " ".join(word for word in words if word)


PRONOUNS = {"he": ("er", "s"), "she": ("sie", "s"), "we": ("wir", "p"), "they": ("sie", "p")}
TIMES = [
    (("today", "heute"), ("present", "must", "can")),
    (("now", "jetzt"), ("present", "must", "want")),
    (("tomorrow", "morgen"), ("will",)),
    (("yesterday", "gestern"), ("past",)),
]
THINKING = [
    ("he says that", "er sagt , dass"),
    ("we know that", "wir wissen , dass"),
    ("they think that", "sie denken , dass"),
    ("it is good that", "es ist gut , dass"),
]


class Grammar:
    """Draws sentences."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def chance(self, p):
        """True with probability p."""
        return self.random.random() < p

    def phrase(self, kinds, relative=0.0):
        """One with a noun of these kinds; with a relative clause with probability `relative`."""
        noun = self.random.choice([noun for noun in NOUNS if noun.kind in kinds.split()])
        number = "p" if self.chance(0.35) else "s"
        determiner = self.random.choice(("the", "the", "this", "my", "a" if number == "s" else ""))
        fitting = [word for word, (_, nouns) in ADJECTIVES.items() if noun.kind in nouns.split()]
        adjective = self.random.choice(fitting) if self.chance(0.5) else ""
        made = Phrase(number, noun, determiner, adjective)
        if noun.plural == noun.english and (number, determiner) != ("p", "this"):
            made.number = "s"  # the English word does not say which
            made.determiner = determiner or "a"
        if self.chance(relative):
            who = Phrase(made.number, noun)  # who does what the clause says
            made.relative = self.clause(who, tenses=("present", "past", "must"))
        return made

    def subject(self, relative=0.15):
        """A phrase, or a pronoun."""
        if self.chance(0.2):
            word = self.random.choice(list(PRONOUNS))
            german, number = PRONOUNS[word]
            return Phrase(number, pronoun=(word, german))
        return self.phrase("person animal", relative)

    def clause(self, subject, tenses=("present", "present", "past", "perfect", *MODALS)):
        """What is said of a subject."""
        tense = self.random.choice(tenses)
        if self.chance(0.1):
            return Clause(
                subject, state=self.random.choice(list(STATES)), negative=self.chance(0.2)
            )
        verb = self.random.choice(VERBS)
        made = Clause(subject, verb, tense)
        if verb.objects:
            made.object = self.phrase(verb.objects)
        if self.chance(0.25):
            made.place = self.phrase("place")
            if not made.place.determiner:
                made.place.determiner = "the"
        made.negative = tense != "must" and self.chance(0.2)
        return made

    def reference(self, antecedent):
        """A clause about the animal of another one: it is er, sie or es."""
        german = {"m": "er", "f": "sie", "n": "es"}[antecedent.noun.gender]
        return self.clause(Phrase("s", pronoun=("it", german)))

    def sentence(self):
        """(English, German, the pairs of words that tell whether it is for the tests)."""
        kind = self.random.choice(("main", "main", "time", "question", "that", "because", "when"))
        clause = self.clause(self.subject())
        clauses = [clause]
        if kind == "main":
            english, german = f"{clause.english()} .", f"{clause.german()} ."
        elif kind == "time":
            clause.time, tenses = self.random.choice(TIMES)
            clause.tense = self.random.choice(tenses)
            clause.negative = clause.negative and clause.tense != "must"
            english, german = f"{clause.english()} .", f"{clause.german()} ."
        elif kind == "question":
            english, german = f"{clause.english_question()} ?", f"{clause.german_inverted()} ?"
        elif kind == "that":
            before, german_before = self.random.choice(THINKING)
            english = f"{before} {clause.english()} ."
            german = f"{german_before} {clause.german_subordinate()} ."
        else:
            subject = clause.subject
            refers = subject.noun and subject.noun.kind == "animal" and subject.number == "s"
            second = self.reference(subject) if refers else self.clause(self.subject(0))
            clauses.append(second)
            if kind == "because":
                english = f"{clause.english()} because {second.english()} ."
                german = f"{clause.german()} , weil {second.german_subordinate()} ."
            else:
                english = f"when {clause.english()} , {second.english()} ."
                german = f"wenn {clause.german_subordinate()} , {second.german_inverted()} ."
        pairs = {pair for clause in clauses for pair in clause.pairs()}
        return english, german.replace(", ,", ",").replace(", .", ".").replace(", ?", "?"), pairs


def is_kept(pair):
    """Whether a pair of words occurs in the tests alone: one of ten."""
    return random.Random("".join(pair)).random() < 0.1


def corpus(seed=1):
    """{part: [(English, German)]}. Sentences of the tests have a pair of words, an adjective and
    its noun or a verb and its object, that stands in no sentence of training."""
    grammar, parts, seen = Grammar(seed), {name: [] for name in SIZES}, set()
    while any(len(parts[name]) < size for name, size in SIZES.items()):
        english, german, pairs = grammar.sentence()
        if english in seen:
            continue
        is_new = any(map(is_kept, pairs))
        name = "train" if not is_new else "dev" if len(parts["dev"]) < SIZES["dev"] else "test"
        if len(parts[name]) < SIZES[name]:
            seen.add(english)
            parts[name].append((english, german))
    return parts


def main():
    """Writes the three files."""
    for name, pairs in corpus().items():
        text = "".join(f"{english}\t{german}\n" for english, german in pairs)
        (FOLDER / f"{name}.txt.gz").write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main()
