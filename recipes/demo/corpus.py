"""The corpus of the demo model: generated, never stored. Everything follows from a seed.

A sample is a conversation, a list of (user text, assistant text) turns, or one raw text. Three rules keep the evaluation apart
from the training data, each a fixed hash, so that no list of held-out items has to travel with the corpus:
* arithmetic: about a tenth of the number pairs {a, b} (those with a number above nine) is never added or subtracted, in any phrasing or order;
* questions: about a tenth of the question texts is never asked;
* stories: about a tenth of the pairs (character, object) is never asked for.
"""
import hashlib
import random
import re

import questions
import stories
from lexicon import HEROES, NAMES, OBJECTS, UNKNOWN, article


def tenth(key):
    """True for about one key in ten, the same on every machine."""
    return hashlib.sha256(key.encode()).digest()[0] < 26


def pair_held_out(a, b):
    return max(a, b) > 9 and tenth(f"pair {min(a, b)} {max(a, b)}")


def question_held_out(text):
    return tenth("question " + re.sub(r"[^a-z0-9 ]", "", text.lower()))


def story_held_out(hero, thing):
    return tenth(f"story {hero} {thing}")


ASK_SUM = ["What is {a} + {b}?"] * 8 + ["How much is {a} + {b}?", "{a} + {b}", "{a} + {b} = ?", "What is {a} plus {b}?", "Add {a} and {b}.", "Calculate {a} + {b}.",
                                        "What is the sum of {a} and {b}?", "{a}+{b}", "What is {a}+{b}?"]
ASK_DIFFERENCE = ["What is {a} - {b}?"] * 8 + ["How much is {a} - {b}?", "{a} - {b}", "{a} - {b} = ?", "What is {a} minus {b}?", "Take {b} from {a}.", "Calculate {a} - {b}.",
                                               "What is the difference of {a} and {b}?", "{a}-{b}", "What is {a}-{b}?"]


def answer_sum(a, b, sign):
    return f"{a} {sign} {b} = {a + b if sign == '+' else a - b}."


def arithmetic(rng):
    """A sum or a difference of numbers below 100; mostly two digits each."""
    while True:
        low_a, low_b = rng.choice([(10, 10)] * 6 + [(0, 0), (10, 0), (0, 10)])
        high_a, high_b = (100 if low_a or rng.random() < 0.5 else 10), (100 if low_b or rng.random() < 0.5 else 10)
        a, b = rng.randrange(low_a, high_a), rng.randrange(low_b, high_b)
        sign = rng.choice("+-")
        if sign == "-" and a < b:
            a, b = b, a
        if not pair_held_out(a, b):
            break
    ask = rng.choice(ASK_SUM if sign == "+" else ASK_DIFFERENCE)
    return ask.format(a=a, b=b), answer_sum(a, b, sign)


def draw_question(rng, kind=None, held_out=False):
    """One question of a kind, from the training side or from the held-out side."""
    while True:
        k = kind or rng.choice(list(questions.KINDS))
        make = questions.KINDS[k]
        ask, answer = make(rng, lambda a, b: not pair_held_out(a, b)) if k == "amounts" else make(rng)
        if question_held_out(ask) == held_out:
            return ask, answer


def context(rng):
    """A question whose answer has to be read or worked out, not remembered."""
    return draw_question(rng, rng.choice(CONTEXT))


def story(rng):
    while True:
        hero, thing = rng.choice(HEROES), rng.choice(OBJECTS)
        if not story_held_out(hero, thing):
            break
    form = rng.choice([stories.ASK] * 8 + [stories.ASK_HERO, stories.ASK_ANY])
    return rng.choice(form).format(c=article(hero), o=article(thing)), stories.story(rng, hero, thing)


TALK = [
    (["Hello", "Hello!", "Hi", "Hi!", "Hi there!", "Hey", "Hello there!", "Good day!"], "Hello! What can I do for you?"),
    (["Good morning!", "Good morning"], "Good morning! What can I do for you?"),
    (["Good evening!", "Good evening"], "Good evening! What can I do for you?"),
    (["Who are you?", "What are you?", "Are you a robot?", "Are you a person?", "Tell me about yourself.", "Introduce yourself.", "What kind of model are you?"],
     "I am a small diffusion language model. I can add numbers, answer easy questions and tell short stories."),
    (["What is your name?", "Do you have a name?", "What should I call you?"], "I have no name. I am a small diffusion language model."),
    (["What can you do?", "How can you help me?", "Help", "Help me", "What do you know?", "Can you help me?", "What can I ask you?"],
     "I can add and subtract small numbers, answer easy questions and tell short stories. Try: Tell me a story about a fox and a lantern."),
    (["How are you?", "How are you today?", "How do you do?", "Are you well?"], "I am well, thank you! What can I do for you?"),
    (["Thank you", "Thank you!", "Thanks", "Thanks!", "Thanks a lot!", "Thank you very much!", "Many thanks!"], "You are welcome!"),
    (["Bye", "Bye!", "Goodbye", "Goodbye!", "Good night!", "See you!", "See you later!"], "Goodbye! Come back soon."),
    (["How do you work?", "How do you write?", "How were you made?"], "I start from masks and fill them in, four at a time, the surest words first."),
    (["Do you like stories?", "Do you like numbers?", "Are you happy?", "Are you clever?"], "I am only a small model, but I like to help."),
    (["Good", "Well done!", "Great!", "Very good!", "Nice!", "That is right!", "Wow!", "OK"], "Thank you! What can I do for you next?"),
]
ASK_UNKNOWN = ["What is {u}?", "Tell me about {u}.", "What do you know about {u}?", "Explain {u}.", "Can you explain {u}?", "Write a poem about {u}.", "Do you like {u}?",
               "Why is {u} so important?", "How does {u} work?", "What do you think of {u}?", "Write code for {u}."]


def talk(rng):
    if rng.random() < 0.25:
        return rng.choice(ASK_UNKNOWN).format(u=rng.choice(UNKNOWN)), "I do not know that. I am only a small model."
    if rng.random() < 0.1:
        name = rng.choice(NAMES)
        return rng.choice(["My name is {n}.", "I am {n}.", "Hello, I am {n}.", "Hi, my name is {n}."]).format(n=name), f"Hello {name}! What can I do for you?"
    asks, answer = rng.choice(TALK)
    return rng.choice(asks), answer


def vary(rng, ask):
    """People type as they like: sometimes without capitals or without the last mark."""
    roll = rng.random()
    if roll < 0.06:
        ask = ask.lower()
    if roll < 0.03 or 0.06 < roll < 0.09:
        ask = ask.rstrip("?.!")
    return ask


def sample(rng, mix):
    """One training sample: ("chat", [(user, assistant), ...]) or ("text", story). `mix` holds the weights of the kinds."""
    make = {"arithmetic": arithmetic, "question": draw_question, "context": context, "story": story, "talk": talk}
    kind = rng.choices(list(mix), weights=list(mix.values()))[0]
    if kind == "text":
        hero, thing = rng.choice(HEROES), rng.choice(OBJECTS)
        if story_held_out(hero, thing):
            return sample(rng, mix)
        return "text", stories.story(rng, hero, thing)
    if kind == "turns":
        kinds = rng.choices(["arithmetic", "question", "context", "talk", "story"], weights=[5, 4, 3, 3, 1], k=rng.choice([2, 2, 2, 3]))
        kinds = [k if k != "story" or i == len(kinds) - 1 else "talk" for i, k in enumerate(kinds)]
        turns = [make[k](rng) for k in kinds]
    else:
        turns = [make[kind](rng)]
    return "chat", [(vary(rng, ask), answer) for ask, answer in turns]


# Sums are learnt first, and then keep needing less; reading a context (who has what, which is bigger) takes longest.
MIX = {"arithmetic": 0.50, "question": 0.28, "story": 0.10, "talk": 0.03, "turns": 0.08, "text": 0.01}
MIX_LATER = {"arithmetic": 0.15, "context": 0.30, "question": 0.08, "story": 0.32, "talk": 0.04, "turns": 0.10, "text": 0.01}
FIRST_PHASE = 0.37  # share of the training time with the first mix
CONTEXT = ["belongings"] * 6 + ["where"] * 5 + ["colour"] * 3 + ["comparison"] * 2 + ["amounts"] * 2 + ["counting", "people", "opposite"]


def evaluation(seed=2024, sums=200, differences=200, asked=300, told=20):
    """The held-out items, each once."""
    rng = random.Random(seed)
    items, seen = [], set()

    def add(kind, ask, answer, **more):
        if ask not in seen:
            seen.add(ask)
            items.append({"kind": kind, "prompt": ask, "answer": answer, **more})
            return True
        return False

    for kind, sign, count in (("sum", "+", sums), ("difference", "-", differences)):
        while count:
            a, b = rng.randrange(10, 100), rng.randrange(10, 100)
            a, b = (max(a, b), min(a, b)) if sign == "-" else (a, b)
            if pair_held_out(a, b):
                count -= add(kind, f"What is {a} {sign} {b}?", answer_sum(a, b, sign))
    kinds = list(questions.KINDS)
    for i in range(asked):
        while not add("question", *draw_question(rng, kinds[i % len(kinds)], held_out=True), about=kinds[i % len(kinds)]):
            pass
    while told:
        hero, thing = rng.choice(HEROES), rng.choice(OBJECTS)
        if story_held_out(hero, thing):
            told -= add("story", f"Tell me a story about {article(hero)} and {article(thing)}.", stories.story(rng, hero, thing), words=[hero, thing])
    return items


if __name__ == "__main__":
    generator = random.Random(1)
    for _ in range(40):
        print(sample(generator, MIX))
