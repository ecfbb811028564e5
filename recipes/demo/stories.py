"""The story grammar: short stories about one character and one object, and a checker that parses them again.

A story is an opening, one of eight plots (a small problem, what is tried, how it is solved) and an ending. Each step is a sentence
with slots, or a choice among a few. The checker turns the same sentences into patterns: a sentence that the model wrote is clean when
the grammar could have written it, and a story is consistent when its slots hold one hero, one friend and one object.
"""
import re

from lexicon import HEROES, OBJECTS, PETNAMES, article

FEEL = ["kind", "brave", "small", "clever", "shy", "cheerful", "gentle", "curious"]
LAND = ["forest", "village", "valley", "garden", "meadow", "town"]
TIME = ["morning", "evening", "afternoon"]
SKY = ["sunny", "windy", "rainy", "cold", "warm", "foggy"]
HIDE = ["under the bed", "behind the door", "in the tall grass", "under a bush", "near the river", "on the hill", "behind a big stone", "in the old barn"]
TREAT = ["warm soup", "sweet berries", "apple pie", "honey cakes", "hot tea", "fresh bread"]
SLOTS = {"hero": HEROES, "friend": HEROES, "thing": OBJECTS, "N": PETNAMES, "F": PETNAMES, "feel": FEEL, "land": LAND, "time": TIME, "sky": SKY,
         "place": HIDE, "place2": HIDE, "place3": HIDE, "treat": TREAT}

OPENING = [
    ["Once upon a time there was a {feel} {hero} named {N}.", "Once there lived a {feel} {hero} named {N} in a {land}.",
     "In a quiet {land} lived a {feel} {hero} named {N}.", "Long ago a {feel} {hero} named {N} lived near a {land}."],
]
MEET = "{F} the {friend}"
OWN = ["{N} had {a_thing} and loved it very much.", "{N} had {a_thing} and took it everywhere."]
DAY = ["One {sky} {time}, ", "One {time}, "]

# One sentence for each step, so that a story holds together; which plots fit depends on the object.
PLOTS = {
    "lost": [OWN, [d + "the {thing} was gone." for d in DAY], ["First {N} looked {place}, but found nothing."],
             ["Then {N} looked {place2}, but it was not there."], [MEET + " came by and said, \"I saw your {thing} {place3}.\""],
             ["They ran there together, and there it was."]],
    "found": [[d + "{N} found {a_thing} {place}." for d in DAY], ["{N} wanted to know whose {thing} it was."], ["{N} went from door to door to ask."],
              ["At last {N} came to " + MEET + ", who looked very sad."], ["\"I lost my {thing},\" said {F}."], ["\"Here it is,\" said {N}, and gave it back."]],
    "broken": [OWN, [d + "the {thing} fell down and broke." for d in DAY], ["{N} sat down and cried."], [MEET + " came by and asked what was wrong."],
               ["\"We can mend it together,\" said {F}."], ["They worked all day with glue and string."], ["In the end the {thing} was as good as new."]],
    "storm": [OWN, ["One windy {time}, the wind blew the {thing} into a tall tree."], ["{N} jumped and jumped, but it was too high."],
              ["Just then " + MEET + " came along the road."], ["\"Stand on my back,\" said {F}."], ["Together they reached up and got the {thing}."]],
    "share": [OWN, [d + MEET + " came to play." for d in DAY], ["\"May I have the {thing}?\" asked {F}."], ["{N} did not want to share and said no."],
              ["{F} was sad and walked home alone."], ["Soon {N} felt sorry and ran after {F}."], ["\"We can share the {thing},\" said {N}."]],
    "gift": [["It was the birthday of " + MEET + "."], ["{N} wanted to give {F} {a_thing}."], ["But there was no {thing} in the shop."],
             ["So {N} worked all night to make one."], ["In the {time} {N} knocked at the door."], ["\"This is the best {thing} in the world!\" said {F}."]],
    "dark": [["{N} was afraid of the dark."], ["One night there was a strange noise {place}."], ["{N} took {a_thing} and went out to look."],
             ["It was only " + MEET + ", who had lost the way."], ["\"Please help me get home,\" said {F}."], ["With the {thing} in front they walked home safely."],
             ["After that {N} was not afraid of the dark."]],
    "work": [OWN, [d + "{N} saw " + MEET + " at work {place}." for d in DAY], ["{F} had too much to carry and was tired."], ["\"Can you help me?\" asked {F}."],
             ["{N} thought about it and had an idea."], ["They used the {thing}, and soon the work was done."]],
}
FITTING = {"lantern": ["dark"], "kite": ["storm"], "drum": ["share"], "ball": ["share", "lost"], "boat": ["broken"], "bell": ["found"], "hat": ["storm"],
           "map": ["found"], "key": ["lost"], "book": ["share"], "basket": ["work"], "scarf": ["gift"], "blanket": ["gift"], "cup": ["broken"], "flute": ["gift"],
           "umbrella": ["storm"], "cookie": ["share"], "pumpkin": ["found"], "balloon": ["storm"], "wagon": ["work"], "mirror": ["broken"],
           "feather": ["found"], "button": ["lost"], "ladder": ["work"]}
ENDING = [
    ["{N} thanked {F}, and they ate {treat}.", "Then they ate {treat} and laughed.", "They sat down and ate {treat} together."],
    ["From that day on they were best friends.", "{N} and {F} were happy.", "{N} learned that friends help each other.", "They played together until the stars came out.",
     "And {N} went to bed with a smile."],
]
STEPS = OPENING + [step for plot in PLOTS.values() for step in plot] + ENDING
ASK = ["Tell me a story about {c} and {o}.", "Tell me a short story about {c} and {o}.", "Can you tell me a story about {c} and {o}?",
       "Please tell me a story about {c} and {o}.", "I want a story about {c} and {o}.", "Write a story about {c} and {o}."]
ASK_HERO = ["Tell me a story about {c}.", "Can you tell me a story about {c}?", "Write a story about {c}."]
ASK_ANY = ["Tell me a story.", "Can you tell me a story?", "Tell me a short story.", "I want a story.", "Please tell me a story."]


def story(rng, hero, thing):
    """One story about this character and this object."""
    name, friend_name = rng.sample(PETNAMES, 2)
    places = rng.sample(HIDE, 3)
    thing_a = article(thing)
    fill = dict(hero=hero, thing=thing, N=name, F=friend_name, friend=rng.choice([h for h in HEROES if h != hero]), a_thing=thing_a,
                A_thing=thing_a.capitalize(), feel=rng.choice(FEEL), land=rng.choice(LAND), sky=rng.choice(SKY), time=rng.choice(TIME),
                treat=rng.choice(TREAT), place=places[0], place2=places[1], place3=places[2])
    steps = OPENING + PLOTS[rng.choice(FITTING[thing])] + ENDING
    return " ".join(rng.choice(step).format(**fill) for step in steps)


def patterns():
    """Every sentence of the grammar as a regular expression with named slots."""
    out = []
    for step in STEPS:
        for sentence in step:
            text, seen = "", set()
            for part in re.split(r"(\{\w+\})", sentence):
                if not part.startswith("{"):
                    text += re.escape(part)
                    continue
                slot = part[1:-1]
                words = [article(o) for o in OBJECTS] if slot.lower() == "a_thing" else SLOTS[slot]
                words = [w.capitalize() for w in words] if slot == "A_thing" else words
                text += f"(?P={slot})" if slot in seen else f"(?P<{slot}>" + "|".join(map(re.escape, words)) + ")"
                seen.add(slot)
            out.append(re.compile(text))
    return out


PATTERNS = patterns()


def parse(text):
    """Split a story into grammar sentences. Returns (list of slot dictionaries, the rest that no sentence of the grammar matches)."""
    found, rest = [], text.strip()
    while rest:
        matches = [m for m in (p.match(rest) for p in PATTERNS) if m and (m.end() == len(rest) or rest[m.end()] == " ")]
        if not matches:
            return found, rest
        best = max(matches, key=lambda m: m.end())
        found.append((best.group(0), best.groupdict()))
        rest = rest[best.end():].lstrip()
    return found, rest


def check(text, hero=None, thing=None):
    """Faults of a story, in words; an empty list means that it passes."""
    faults = []
    found, rest = parse(text)
    if rest:
        faults.append("not a sentence of the grammar: " + rest[:60])
    sentences = [s for s, _ in found]
    if len(found) < 6:
        faults.append("too short")
    if len(set(sentences)) < len(sentences):
        faults.append("a sentence is repeated")
    for word in (hero, thing):
        if word and not re.search(rf"\b{word}\b", text, re.I):
            faults.append(f"no {word}")
    values = lambda *slots: {re.sub(r"^an? ", "", v.lower()) for _, d in found for s in slots for v in [d.get(s)] if v}
    for slots, what in ((["hero"], "hero"), (["thing", "a_thing", "A_thing"], "object"), (["N"], "hero's name"), (["F"], "friend's name"), (["friend"], "friend")):
        if len(values(*slots)) > 1:
            faults.append(f"more than one {what}: " + ", ".join(sorted(values(*slots))))
    if values("N") & values("F"):
        faults.append("hero and friend have one name")
    return faults
