#!/usr/bin/env python3
"""Text of the bundled model's task: a public formulary, a private patient note, a dose.

Every document is a fresh random table (medicine x patient group -> dose), so an answer can only be
read off the document; every note names one medicine and one patient, so a document alone does not
answer either. Medicines are invented words. Notes are split into training and held-out ones by
(medicine, patient word): a held-out pair occurs in no training note.

    python3 tools/clinic_text.py --seed 1 --count 3 --split heldout
"""

import argparse
import hashlib
import json
import random

MEDICINES = (
    "Arven Belta Corin Dalex Emvar Fosta Gralin Hexol Ibran Jovik Kelso Lumar "
    "Morvan Nexil Ostra Pirax Quorin Relta Savic Tamor Ulvex Vantor Wexan Zoril"
).split()

GROUPS = (" for adults", " for children", " in pregnancy")

# One word decides the group; no word belongs to two groups, and no filler uses any of them.
PATIENTS = (
    ("man", "farmer", "teacher", "driver", "baker", "sailor", "clerk", "plumber"),
    ("boy", "girl", "child", "toddler", "pupil", "schoolboy", "schoolgirl", "kid"),
    ("pregnant", "expectant", "expecting", "trimester"),
)

# Patient word -> the phrase around it, where "a WORD" would not be English.
PHRASES = {
    "pregnant": "a pregnant lady",
    "expectant": "an expectant mother",
    "expecting": "a lady expecting twins",
    "trimester": "a lady in her third trimester",
}

DOSES = ("2", "5", "10", "15", "20", "25", "30", "40", "50", "60", "75", "80")

SCHEDULES = (
    "twice daily", "every morning", "each evening", "after meals",
    "before bed", "with food", "once weekly", "at noon",
)

CLINICS = ("Harbour", "Hill", "River", "Station", "Market", "Forest", "Abbey", "Castle")

HEADERS = (
    "Formulary of the {c} clinic.\nAll doses are taken by mouth.\n",
    "The {c} clinic formulary.\nEach line gives one medicine and one group.\n",
    "List of medicines at the {c} clinic.\nThe doses below are for one person.\n",
    "Doses used by the {c} clinic.\nRead the line of the medicine and the group.\n",
)

FOOTERS = (
    "End of the list.\n",
    "Ask the pharmacy about anything else.\n",
    "This list replaces all older lists.\n",
    "The list is open to everyone.\n",
)

OPENERS = (
    "Note from today.", "Notes of the visit.", "Private note.", "Record of a visit.",
)

PATIENT_SENTENCES = (
    " The patient is {p}.", " We saw {p} this week.", " I spoke with {p} at the desk.",
    " Our visitor is {p}.", " This is about {p}.",
)

MEDICINE_SENTENCES = (
    " The doctor chose {m}.", " The plan is to start {m}.", " We agreed on {m}.",
    " The letter asks for {m}.", " The choice was {m} after some talk.",
)

FILLERS = (
    " The cough began on Monday.", " Sleep has been poor for a week.",
    " There is no fever now.", " The skin looks well.", " The heart sounds normal.",
    " Blood pressure was fine.", " A cold wind made it worse.", " The family lives near the sea.",
    " Work has been hard of late.", " The last visit was in spring.", " No other pills are taken.",
    " The throat is a little red.", " There is some pain at night.", " Walking helps a bit.",
    " The knee is still stiff.", " Tea and rest were of some use.", " The ears are clear.",
    " A test will follow next month.", " The eyes are not sore.", " It hurts more in the cold.",
    " The weight has not changed.", " There were no falls.", " The stomach is calm.",
    " A long walk home was tiring.", " The house is warm and dry.", " The dog keeps everyone busy.",
    " The result came by post.", " We will call back on Friday.", " The hands shake a little.",
    " There is a rash on one arm.", " The mood is good.", " Reading makes the head ache.",
    " The bus was late again.", " Nothing else was new.", " The rest of the story is long.",
    " It has been so since winter.",
)

QUESTIONS = (
    " What is the dose? Answer:", " Which dose is right? Answer:", " Give the dose. Answer:",
)


# Frequent English words that the task does not use: the vocabulary holds them so that other text
# breaks into words too. Nothing is learned about them.
COMMON = (
    "and that was his he with as you are at be this from I have or by one had word but what were "
    "all when your can said use an each she how their if up out many then them these so some her would make "
    "like him into time has look two more write go see number way could people my than first water been "
    "who oil its find long down day did get come made may part over new sound take only little work know place "
    "year live me back give most very after thing our just name good man think say great where help through much "
    "before line right too mean old any same tell boy follow came want show also around form three small set put end "
    "does another well large must big even such because turn here why ask went men read need land different home us move "
    "try kind hand picture again change off play spell air away animal house point page letter mother answer found study"
).split()


# A note that an editor has saved ends in a newline; a note that a program has made does not.
NEWLINE_SHARE = 0.25


def pair_is_heldout(medicine, patient):
    """True for about one pair in seven, by hash, so that the split needs no stored list."""
    digest = hashlib.sha256(f"{medicine}/{patient}".encode()).digest()
    return digest[0] % 7 == 0


def patient_phrase(patient):
    return PHRASES.get(patient, f"a {patient}")


class Document:
    """One formulary: `pieces` are the strings whose concatenation is the text."""

    def __init__(self, rng, medicines):
        names = rng.sample(MEDICINES, medicines)
        self.table = {
            (m, g): (rng.choice(DOSES), rng.choice(SCHEDULES))
            for m in names for g in range(len(GROUPS))
        }
        self.names = names
        keys = list(self.table)
        rng.shuffle(keys)
        self.lines = {key: i for i, key in enumerate(keys)}
        self.pieces = [rng.choice(HEADERS).format(c=rng.choice(CLINICS))]
        for m, g in keys:
            dose, schedule = self.table[m, g]
            self.pieces += [m, GROUPS[g], ":", f" {dose}", " mg", f" {schedule}", ".\n"]
        self.pieces.append(rng.choice(FOOTERS))

    def answer(self, medicine, group):
        dose, schedule = self.table[medicine, group]
        return [f" {dose}", " mg", f" {schedule}", "."]


def note_pieces(rng, document, split, length_of, low=64, high=128):
    """A note about `document` of `low..=high` tokens by `length_of`.

    Returns the note's pieces, the answer's pieces and (medicine, group, patient word).
    """
    while True:
        medicine = rng.choice(document.names)
        group = rng.randrange(len(GROUPS))
        patient = rng.choice(PATIENTS[group])
        if pair_is_heldout(medicine, patient) == (split == "heldout"):
            break
    core = [
        rng.choice(PATIENT_SENTENCES).format(p=patient_phrase(patient)),
        rng.choice(MEDICINE_SENTENCES).format(m=medicine),
    ]
    rng.shuffle(core)
    opener, question = rng.choice(OPENERS), rng.choice(QUESTIONS)
    if rng.random() < NEWLINE_SHARE:
        question += "\n"
    used = sum(length_of(p) for p in (opener, question, *core))
    target = rng.randint(max(low, used), max(high, used))
    fillers = []
    for filler in rng.sample(FILLERS, len(FILLERS)):
        if used >= target:
            break
        if used + length_of(filler) <= max(high, used):
            fillers.append(filler)
            used += length_of(filler)
    body = fillers[:]
    for sentence in core:
        body.insert(rng.randint(0, len(body)), sentence)
    return [opener, *body, question], document.answer(medicine, group), (medicine, group, patient)


def corpus(seed, documents):
    """Lines of text on which the vocabulary is trained: documents, notes and answers."""
    rng = random.Random(seed)
    for _ in range(documents):
        document = Document(rng, 8)
        yield "".join(document.pieces)
        for _ in range(6):
            note, answer, _ = note_pieces(rng, document, "train", lambda s: s.count(" ") + 2)
            yield "".join(note)
            yield "".join(answer)
    for word in COMMON:
        yield from (f" {word}",) * 20


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--medicines", type=int, default=10, help="medicines in each document (three lines each)")
    parser.add_argument("--split", choices=("train", "heldout"), default="train")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    for _ in range(args.count):
        document = Document(rng, args.medicines)
        note, answer, _ = note_pieces(rng, document, args.split, lambda s: s.count(" ") + 2)
        print(json.dumps({
            "public": "".join(document.pieces), "private": "".join(note), "answer": "".join(answer),
        }))


if __name__ == "__main__":
    main()
