"""Questions and answers about the small world of `lexicon`. Each function draws one (question, answer) pair.

Every answer follows from the facts or from the question itself, and each fact can be asked in several ways: that is what lets
the held-out questions be new combinations of known facts and known phrasings.
"""
from lexicon import (CLASSES, COLOUR_OF, COLOURS, DAYS, FOODS, GOODS, HOMES, LEGS, MONTHS, NAMES, OPPOSITES, PETS, SOUNDS, SPELLED, SPOTS, THINGS,
                     YOUNG, article)


def cap(text):
    return text[0].upper() + text[1:]


def colour(rng):
    thing = rng.choice(list(COLOUR_OF))
    right = COLOUR_OF[thing]
    if rng.random() < 0.4:
        other = right if rng.random() < 0.5 else rng.choice([c for c in COLOURS if c != right])
        ask = rng.choice(["Is {t} {c}?", "Is it true that {t} is {c}?"]).format(t=thing, c=other)
        return cap(ask), f"Yes, {thing} is {right}." if other == right else f"No, {thing} is {right}."
    ask = rng.choice(["What colour is {t}?", "Tell me the colour of {t}.", "What is the colour of {t}?", "Do you know what colour {t} is?",
                      "Which colour has {t}?", "Please tell me what colour {t} is.", "What color is {t}?"])
    return ask.format(t=thing), cap(f"{thing} is {right}.")


def opposite(rng):
    a, b = rng.choice(OPPOSITES)
    if rng.random() < 0.5:
        a, b = b, a
    ask = rng.choice(["What is the opposite of {a}?", "Tell me the opposite of {a}.", "Which word is the opposite of {a}?", "Do you know the opposite of {a}?",
                      "What is the reverse of {a}?", "The opposite of {a} is what?"])
    return ask.format(a=a), f"The opposite of {a} is {b}."


def animal(rng):
    kind = rng.randrange(4)
    facts = [SOUNDS, YOUNG, HOMES, LEGS][kind]
    a = rng.choice(list(facts))
    f, an = facts[a], article(a)
    asks, answer = [
        (["What does {an} say?", "What sound does {an} make?", "Which sound does {an} make?", "What noise does {an} make?", "Tell me what {an} says."], f"{an} says {f}."),
        (["What is a young {a} called?", "What is a baby {a} called?", "What do you call a young {a}?", "What do you call a baby {a}?", "Tell me the name of a young {a}."],
         f"A young {a} is called {article(f)}."),
        (["Where does {an} live?", "What is the home of {an}?", "Tell me where {an} lives.", "Do you know where {an} lives?", "Where is the home of {an}?"], f"{an} lives in {f}."),
        (["How many legs does {an} have?", "How many legs has {an}?", "Tell me how many legs {an} has.", "Do you know how many legs {an} has?"], f"{an} has {f} legs."),
    ][kind]
    return rng.choice(asks).format(a=a, an=an), cap(answer)


def category(rng):
    thing = rng.choice(list(CLASSES))
    right = CLASSES[thing]
    other = rng.choice([c for c in sorted(set(CLASSES.values())) if c != right and {c, right} != {"animal", "bird"}])
    first, second = rng.sample([right, other], 2)
    t = article(thing)
    ask = rng.choice([f"Is {t} {article(first)} or {article(second)}?", f"What is {t}, {article(first)} or {article(second)}?"])
    return ask, cap(f"{t} is {article(right)}.")


def calendar(rng):
    names, word = (DAYS, "day") if rng.random() < 0.6 else (MONTHS, "month")
    i = rng.randrange(len(names))
    step, rel = rng.choice([(1, "after"), (-1, "before")])
    it, answer = names[i], names[(i + step) % len(names)]
    ask = rng.choice(["What {w} comes {r} {i}?", "Which {w} comes {r} {i}?", "What {w} is {r} {i}?", "Which {w} is {r} {i}?", "Tell me the {w} {r} {i}.",
                      "What is the {w} {r} {i}?", "Do you know which {w} comes {r} {i}?"])
    return ask.format(w=word, r=rel, i=it), f"{answer} comes {rel} {it}."


def counting(rng):
    kind = rng.randrange(3)
    if kind == 0:
        a = rng.randrange(1, 30)
        b = a + rng.randrange(2, 6)
        up = rng.random() < 0.6
        a, b, numbers = (a, b, range(a, b + 1)) if up else (b, a, range(b, a - 1, -1))
        ask = rng.choice(["Count from {a} to {b}.", "Can you count from {a} to {b}?", "Please count from {a} to {b}."])
        return ask.format(a=a, b=b), ", ".join(map(str, numbers)) + "."
    if kind == 1:
        n = rng.randrange(2, 100)
        step, rel = rng.choice([(1, "after"), (-1, "before")])
        ask = rng.choice(["What number comes {r} {n}?", "Which number comes {r} {n}?", "What number is {r} {n}?", "What is the number {r} {n}?"])
        return ask.format(r=rel, n=n), f"{n + step} comes {rel} {n}."
    n = rng.randrange(1, 100)
    ask = rng.choice(["Is {n} even or odd?", "Is {n} odd or even?", "Is the number {n} even or odd?", "Is the number {n} odd or even?"])
    return ask.format(n=n), f"{n} is {'even' if n % 2 == 0 else 'odd'}."


def comparison(rng):
    a, b = rng.randrange(1, 100), rng.randrange(1, 100)
    while a == b:
        b = rng.randrange(1, 100)
    word = rng.choice(["bigger", "bigger", "larger", "smaller", "smaller"])
    best, rest = (min(a, b), max(a, b)) if word == "smaller" else (max(a, b), min(a, b))
    ask = rng.choice(["Which is {w}, {a} or {b}?", "Which is {w}, {a} or {b}?", "Which number is {w}, {a} or {b}?", "What is {w}, {a} or {b}?"])
    return ask.format(w=word, a=a, b=b), f"{best} is {word} than {rest}."


def letters(rng):
    word = rng.choice(SPELLED)
    kind = rng.randrange(3)
    if kind == 2 and len(word) < 6:
        return rng.choice(["How do you spell {w}?", "Spell the word {w}.", "Can you spell {w}?", "Please spell {w}.", "Spell {w}."]).format(w=word), ", ".join(word) + "."
    which = rng.choice(["first", "last"])
    ask = rng.choice(["What is the {k} letter of {w}?", "What is the {k} letter of the word {w}?", "Which letter is the {k} letter of {w}?", "Tell me the {k} letter of {w}.",
                      "Which letter comes {k} in {w}?"])
    return ask.format(k=which, w=word), f"The {which} letter of {word} is {word[0 if which == 'first' else -1]}."


def belongings(rng):
    """Tiny contexts: who has what, in which colour."""
    (n1, n2), (t1, t2), (c1, c2) = rng.sample(NAMES, 2), rng.sample(THINGS, 2), rng.sample(COLOURS, 2)
    c1a, c2a = article(c1), article(c2)
    kind = rng.randrange(5)
    one = f"{n1} has {c1a} {t1}."
    two = f"{one} {n2} has {c2a} {t2}."
    if kind == 0:
        return f"{one} What colour is the {t1}?", f"The {t1} is {c1}."
    if kind == 1:
        return f"{one} What does {n1} have?", f"{n1} has {c1a} {t1}."
    n, t, c = rng.choice([(n1, t1, c1), (n2, t2, c2)])
    if kind == 2:
        return f"{two} Who has the {t}?", f"{n} has the {t}."
    if kind == 3:
        return f"{two} What colour is the {t}?", f"The {t} is {c}."
    return f"{two} What does {n} have?", f"{n} has {article(c)} {t}."


def where(rng):
    (p1, p2), (s1, s2) = rng.sample(PETS, 2), rng.sample(SPOTS, 2)
    if rng.random() < 0.5:
        return f"The {p1} is {s1}. Where is the {p1}?", f"The {p1} is {s1}."
    p, s = rng.choice([(p1, s1), (p2, s2)])
    ask = rng.choice([f"Where is the {p}?", f"Where is the {p}?", f"Who is {s}?"])
    return f"The {p1} is {s1}. The {p2} is {s2}. {ask}", f"The {p} is {s}."


def people(rng):
    n1, n2 = rng.sample(NAMES, 2)
    more, less = rng.choice([("older", "younger"), ("taller", "shorter"), ("faster", "slower"), ("stronger", "weaker")])
    word = rng.choice([more, less])
    said = rng.choice([more, less])
    top = n1 if said == word else n2
    rest = n2 if top == n1 else n1
    return f"{n1} is {said} than {n2}. Who is {word}?", f"{top} is {word} than {rest}."


def amounts(rng, allowed):
    """Small word problems; `allowed(a, b)` keeps operand pairs that are held out of training away."""
    while True:
        a, b = rng.randrange(2, 13), rng.randrange(1, 10)
        name, plural = rng.choice(NAMES), rng.choice(FOODS + GOODS)
        add = rng.random() < 0.5
        if (add or a > b + 1) and b > 0 and allowed(a, b):
            break
    if add:
        tale = rng.choice(["{n} has {a} {p} and gets {b} more.", "{n} has {a} {p} and finds {b} more.", "{n} had {a} {p}. Then {n} got {b} more."])
    else:
        loss = "eats" if plural in FOODS else "loses"
        tale = rng.choice(["{n} has {a} {p} and " + loss + " {b}.", "{n} has {a} {p} and gives away {b}.", "{n} had {a} {p}. Then {n} gave away {b}."])
    ask = rng.choice(["How many {p} does {n} have now?", "How many {p} does {n} have?"])
    total = a + b if add else a - b
    return (tale + " " + ask).format(n=name, a=a, b=b, p=plural), f"{name} has {total} {plural}."


KINDS = {"colour": colour, "opposite": opposite, "animal": animal, "category": category, "calendar": calendar, "counting": counting,
         "comparison": comparison, "letters": letters, "belongings": belongings, "where": where, "people": people, "amounts": amounts}
