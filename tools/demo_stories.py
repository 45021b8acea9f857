# SPDX-License-Identifier: Apache-2.0
"""The text that rill-demo is trained and tested on: small worlds, told as stories, with questions.

Everything is made here from word lists and sentence forms; no outside text is used. A world has
people, things and places. People walk, take things, put them down and hand them over; the story
tells each change in one sentence, between sentences that change nothing. A question is answered
from the state of the world at the end.

Training and held-out stories cannot meet: about one in twenty pairs (person, thing) is held out
(`is_held_out`). A training story contains no such pair in its cast, a test story at least one.
"""

import random
import re
import string
import zlib
from dataclasses import dataclass, field

NAMES = """Tom Anna Sue Ben Kate Max Lucy Sam Emma Jack Mary Paul Lily Oscar Ruth Peter Clara Henry
Alice David Nina Felix Rosa Simon Julia Leo Grace Martin Eva Hugo Laura Adam Sarah Daniel Olga Bruno
Helen Victor Irene Carl Diana Frank Greta Ivan Jane Kurt Linda Mark Nora Otto Paula Robin Stella
Thomas Vera Walter Yara Zoe Amir Bella Cora Dora Edgar Fiona George Hanna Ida Jonas Karin Louis Mia
Noah Olivia Philip Rita Sofia Theo Ursula Wendy Arthur Bob Chloe Dan Ella Fred Gina Harry Iris Joe
Kim Liam Maya Nick Pia Ron Sally Tim Una Vincent Will""".split()

PLACES = """kitchen garden attic cellar library office garage hall barn tower bakery school park
forest church museum market station hospital castle theatre bedroom bathroom workshop stable chapel
cave tent cabin studio shop gym pantry lobby courtyard greenhouse harbour village meadow valley
orchard hotel bank zoo laboratory gallery nursery palace""".split()

THINGS = """lamp coin book key apple ball cup map hat rope knife letter clock ring box basket spoon
flute drum violin candle mirror pencil umbrella bottle blanket bucket hammer ladder brush scarf
glove shoe coat sword shield crown feather shell stone flower melon pear lemon orange cake bread
cheese pie doll kite puzzle camera radio phone ticket wallet bag needle button vase plate fork
kettle broom torch compass whistle medal pillow towel comb lantern parcel trumpet""".split()

MARK = re.compile(r"( ?)\[([^\]~]*)~?([^\]]*)\]")  # a marked word, with the space before it
NUMBERS = "no one two three four five six seven eight".split()

FILLERS = """The clock ticked. It was a sunny day. The rain fell on the roof. A bird sang outside.
The wind was cold. Nothing else happened for a while. The sky was grey. A dog barked far away.
It was getting late. The sun came out. Everything was quiet. Time went by. A bell rang somewhere.
The leaves moved in the wind. It smelled of fresh rain. A train passed in the distance.
The shadows grew longer. Snow began to fall. Somebody laughed outside. The day was long.
A cat slept in the sun. Music was playing far away. The lights went out and came back.
It was warm for the time of year. A car went past.""".replace("\n", " ").split(". ")
FILLERS = [f.rstrip(".") + "." for f in FILLERS]

PERSON_FILLERS = ["{p} was hungry.", "{p} was very happy.", "{p} was a little tired.",
                  "{p} told a joke.", "{p} sang a song.", "{p} said nothing.", "{p} smiled.",
                  "{p} looked out of the window.", "{p} thought about lunch.",
                  "{p} wanted to see {q}.", "{p} talked about {q}.", "{p} liked {q}.",
                  "{p} asked for the time.", "{p} thought about the {o}.",
                  "{p} had never liked the {o}.", "{p} dreamed of the {l}."]

# A word in [brackets] follows from the story so far; training puts weight on it. After ~ stands
# whose fact it is: the person or thing under which the story told it last. In thinking, after =
# stands the word if the question named it, or nothing if the question named another; and after >
# the next of the list that the thinking goes through, or nothing at its end.
MOVES = ["{p} went to the {l}.", "{p} walked to the {l}.", "{p} ran to the {l}.",
         "{p} moved to the {l}.", "{p} hurried to the {l}.", "Then {p} went to the {l}.",
         "After that, {p} walked to the {l}.", "{p} left the [{k}~{p}] and went to the {l}.",
         "{p} went from the [{k}~{p}] to the {l}.", "Later {p} came to the {l}.",
         "{p} returned to the {l}.", "{p} went into the {l}.",
         "From the {k}, {p} went to the {l}.", "{p} left the [{k}~{p}] for the {l}."]
# Training stories also repeat what holds, so that the story itself asks for it.
RECAPS = ["{p} is in the [{l}~{p}].", "{p} was in the [{l}~{p}] now.",
          "Now {p} was in the [{l}~{p}]."]
TAKES = ["{p} took the {o}.", "{p} picked up the {o}.", "{p} grabbed the {o}.",
         "{p} got the {o}.", "In the {l}, {p} took the {o}.", "{p} found the {o} and took it.",
         "{p} lifted the {o} and kept it.", "Then {p} picked up the {o}."]
PUTS = ["{p} put the {o} down in the [{l}~{p}].", "{p} dropped the {o} in the [{l}~{p}].",
        "{p} left the {o} in the [{l}~{p}].", "{p} put down the {o} in the [{l}~{p}].",
        "Then {p} left the {o} in the [{l}~{p}]."]
GIVES = ["{p} gave the {o} to {q}.", "{p} handed the {o} to {q}.", "{p} passed the {o} to {q}.",
         "{q} took the {o} from [{p}~{o}].", "{q} got the {o} from [{p}~{o}].",
         "Then {p} gave the {o} to {q}."]
STARTS = ["{p} was in the {l}.", "{p} started in the {l}.", "{p} stood in the {l}.",
          "{p} was waiting in the {l}.", "At first {p} was in the {l}.", "{p} sat in the {l}.",
          "{p} is in the {l}."]
THING_STARTS = ["The {o} was in the {l}.", "The {o} lay in the {l}.",
                "Somebody had left the {o} in the {l}.", "There was the {o} in the {l}.",
                "The {o} is in the {l}."]
HELD_STARTS = ["{p} had the {o}.", "{p} has the {o}.", "The {o} was with {p}."]
INTROS = ["This is a story about {people}. There are some things in it: {things}.",
          "Here is a story about {people}, and about {things}.",
          "Once upon a time there were {people}. Their things were {things}.",
          "Meet {people}. Keep an eye on {things}.",
          "One day, {people} met. They talked about {things}."]

SYSTEMS = ["You are a helpful assistant.", "Answer the question about the story.",
           "You are Rill's demo model.", "Read the story and answer in one sentence."]

HELLO = ("Hello! I am Rill's small demo model. Tell me a short story about who goes where and who "
         "takes what, and ask me where someone is.")
WHO = "I am Rill's small demo model. I answer questions about short stories."
WHAT = ("I can read a short story and say where people and things are, who has what, and how many. "
        "Try this: Tom is in the kitchen. Anna is in the garden. Tom went to the hall. Where is "
        "Tom?")
OTHER = "I do not know. I only answer questions about short stories of people, things and places."
THANKS = "You are welcome. Ask me about another story."
CHAT = [(HELLO, ["Hello", "Hello!", "Hi", "Hi!", "Hey", "Hello there", "Good morning", "hello",
                 "hi", "Good day!", "Hello, how are you?", "Hey there!", "Hello.", "Hi there!"]),
        (WHO, ["Who are you?", "What are you?", "What is your name?", "who are you?",
               "Tell me about yourself.", "Are you a language model?", "Who made you?",
               "Who are you", "What model are you?"]),
        (WHAT, ["What can you do?", "Help", "help", "How do I use this?", "What can I ask you?",
                "How does this work?", "what can you do?", "What do you do?", "What should I type?",
                "Can you help me?", "What can you do"]),
        (THANKS, ["Thank you", "Thanks!", "Thank you!", "thanks", "Thanks a lot.", "Good bye",
                  "Bye", "Goodbye!"])]
OFF_TOPIC = ["What is the capital of {w}?", "Write a poem about {w}.", "Tell me a joke.",
             "How old is {w}?", "What is {w}?", "Explain {w} to me.", "Why is the sky blue?",
             "What is two plus two?", "Translate {w} into French.", "Who is the king of {w}?",
             "{w} {w} {w}", "{w}", "Write a program that prints {w}.", "How do I cook {w}?",
             "What time is it?", "Give me three facts about {w}.", "Tell me about {w}.",
             "Tell me a story.", "Do you like {w}?", "Can you {w}?"]


def plain(text):
    """The text without marks."""
    return MARK.sub(r"\1\2", text)


def is_held_out(person, thing):
    """Whether the pair belongs to test stories only. [bool, the same on every machine]"""
    return zlib.crc32(f"{person}/{thing}".encode()) % 20 == 0


def listed(words):
    """'a', 'a and b', 'a, b and c'."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


@dataclass
class World:
    """The state of a story: who is where, and with whom or where each thing is."""

    people: list
    things: list
    places: list
    at: dict = field(default_factory=dict)       # person -> place
    holder: dict = field(default_factory=dict)   # thing -> person or None
    lies: dict = field(default_factory=dict)     # thing -> place, where holder is None
    sentences: list = field(default_factory=list)
    keys: list = field(default_factory=list)     # per sentence: whose fact it tells, or None
    values: list = field(default_factory=list)   # per sentence: the fact, a place or a holder
    quiet: set = field(default_factory=set)      # people and things that no longer change
    words: int = 0

    def tell(self, text, key=None):
        self.sentences.append(text)
        self.keys.append(key)
        self.values.append(self.at.get(key) or self.holder.get(key) or self.lies.get(key))
        self.words += text.count(" ") + text.count(",") + 2

    def place_of(self, thing):
        owner = self.holder[thing]
        return self.at[owner] if owner else self.lies[thing]

    def held_by(self, person):
        return [o for o in self.things if self.holder[o] == person]


def cast_size(rng, tokens):
    """(people, things) for a story of about this many tokens."""
    if tokens <= 100:
        return rng.randint(2, 4), rng.randint(1, 2)
    if tokens <= 200:
        return rng.randint(2, 5), rng.randint(1, 4)
    if tokens <= 400:
        return rng.randint(3, 6), rng.randint(2, 5)
    return rng.randint(3, 6), rng.randint(3, 6)


def choose_cast(rng, size, held_out):
    """People and things whose pairs suit the split; drawn again until they do."""
    while True:
        people, things = rng.sample(NAMES, size[0]), rng.sample(THINGS, size[1])
        found = any(is_held_out(p, o) for p in people for o in things)
        if found == held_out:
            return people, things


def recap(rng, world):
    """Tells again where someone or something is."""
    if rng.random() < 0.5:
        person = rng.choice(world.people)
        return world.tell(rng.choice(RECAPS).format(p=person, l=world.at[person]), person)
    thing = rng.choice(world.things)
    return world.tell(where_line(world, thing) + ".", thing)


def step(rng, world, filler_rate, recap_rate):
    """Tells one more sentence: an event that changes the world, or one that does not."""
    if rng.random() < recap_rate:
        return recap(rng, world)
    people = [p for p in world.people if p not in world.quiet] or world.people
    person = rng.choice(people)
    here = world.at[person]
    if rng.random() < filler_rate:
        if rng.random() < 0.6:
            return world.tell(rng.choice(FILLERS))
        other = rng.choice([p for p in world.people if p != person])
        return world.tell(rng.choice(PERSON_FILLERS).format(
            p=person, q=other, o=rng.choice(world.things), l=rng.choice(world.places)))
    loud = [o for o in world.things if o not in world.quiet]
    free = [o for o in loud if world.holder[o] is None and world.lies[o] == here]
    mine = [o for o in loud if world.holder[o] == person]
    near = [q for q in people if q != person and world.at[q] == here]
    if free and rng.random() < 0.6:
        thing = rng.choice(free)
        world.holder[thing] = person
        return world.tell(rng.choice(TAKES).format(p=person, o=thing, l=here), thing)
    if mine and near and rng.random() < 0.6:
        thing, other = rng.choice(mine), rng.choice(near)
        world.holder[thing] = other
        return world.tell(rng.choice(GIVES).format(p=person, q=other, o=thing), thing)
    if mine and rng.random() < 0.2:
        thing = rng.choice(mine)
        world.holder[thing], world.lies[thing] = None, here
        return world.tell(rng.choice(PUTS).format(p=person, o=thing, l=here), thing)
    # Walk, more often than not to where something can happen.
    goals = [world.lies[o] for o in loud if world.holder[o] is None]
    goals += [world.at[q] for q in people if mine and q != person]
    goals = [g for g in goals if g != here]
    goal = rng.choice(goals) if goals and rng.random() < 0.65 else rng.choice(world.places)
    if goal == here:
        return None
    world.at[person] = goal
    return world.tell(rng.choice(MOVES).format(p=person, k=here, l=goal), person)


def begin(rng, size, held_out):
    """A World of `size` (people, things) with all of them in place, and the beginning told."""
    people, things = choose_cast(rng, size, held_out)
    places = rng.sample(PLACES, rng.randint(3, 4 + len(people)))
    world = World(people, things, places)
    if rng.random() < 0.75:
        world.tell(rng.choice(INTROS).format(people=listed(people),
                                             things=listed([f"the {o}" for o in things])))
    for person in people:
        world.at[person] = rng.choice(places)
        world.tell(rng.choice(STARTS).format(p=person, l=world.at[person]), person)
    for thing in things:
        world.holder[thing], world.lies[thing] = None, rng.choice(places)
        if rng.random() < 0.2:
            world.holder[thing] = rng.choice(people)
            world.tell(rng.choice(HELD_STARTS).format(o=thing, p=world.holder[thing]), thing)
        else:
            world.tell(rng.choice(THING_STARTS).format(o=thing, l=world.lies[thing]), thing)
    return world


def make_still(rng):
    """A World in which nothing happens, of many people: whom a place belongs to is all there is.

    The first lessons: with few people who move, guessing the last place told is right so often
    that the model is slow to learn whose it was.
    """
    return begin(rng, (rng.randint(3, 6), rng.randint(1, 4)), held_out=False)


def make_story(rng, tokens, held_out=False, recap_rate=0.0):
    """A finished World whose story has about `tokens` tokens (a token is a word or a mark)."""
    world = begin(rng, cast_size(rng, tokens), held_out)
    filler_rate = rng.choice([0.0, 0.15, 0.3, 0.5])
    while world.words < tokens:
        # In a long story some people and things fall silent, so that answers lie far back.
        if tokens > 200 and rng.random() < 12 / tokens and len(world.quiet) < len(world.people) - 1:
            world.quiet.add(rng.choice(world.people + world.things))
        step(rng, world, filler_rate, recap_rate)
    return world


# ---------------------------------------------------------------------------------------------
# Questions. Each returns (kind, question, thinking, answer).

def compared(found, asked):
    """The part of a mark that says whether the word is the one that was asked about."""
    return "=" + (asked if found == asked else "")


def following(items, item):
    """The part of a mark that says which item of a list comes next, if any."""
    return ">" + (items + [""])[items.index(item) + 1]


def where_line(world, thing, compare=""):
    """One line of thinking: where a thing is, by holder or by place."""
    owner = world.holder[thing]
    if owner:
        return f"The {thing} is [with~{thing}] [{owner}~{thing}{compare}]"
    return f"The {thing} is [in~{thing}] the [{world.lies[thing]}~{thing}{compare}]"


def ask_where_person(rng, world):
    person = rng.choice(world.people)
    question = rng.choice(["Where is {}?", "Where is {} now?", "In which place is {}?",
                           "Can you tell me where {} is?"]).format(person)
    answer = f"{person} is in the [{world.at[person]}~{person}]."
    return "where_person", question, answer, answer


def place_line(world, thing):
    mark = "" if world.holder[thing] else f"~{thing}"
    return f"The {thing} is in the [{world.place_of(thing)}{mark}]."


def ask_where_thing(rng, world):
    thing = rng.choice(world.things)
    question = rng.choice(["Where is the {}?", "Where is the {} now?", "In which place is the {}?",
                           "Can you tell me where the {} is?"]).format(thing)
    thinking = where_line(world, thing) + "."
    owner = world.holder[thing]
    if owner:
        thinking += f" {owner} is in the [{world.at[owner]}~{owner}]."
    return "where_thing", question, thinking, place_line(world, thing)


def ask_who_has(rng, world):
    thing = rng.choice(world.things)
    question = rng.choice(["Who has the {}?", "Who has the {} now?", "Who is holding the {}?",
                           "Who is carrying the {}?"]).format(thing)
    return ("who_has", question, where_line(world, thing) + ".",
            f"[{world.holder[thing] or 'Nobody'}~{thing}] has the {thing}.")


def things_of(world, person):
    """Thinking that goes through all things and counts those of one person."""
    lines, count = [], 0
    for thing in world.things:
        mark = compared(world.holder[thing], person) if world.holder[thing] else ""
        line = where_line(world, thing, mark + following(world.things, thing))
        if world.holder[thing] == person:
            count += 1
            line += f", {NUMBERS[count]}"
        lines.append(line + ".")
    return " ".join(lines)


def holder_biased(rng, world):
    """A person, rather one who has something."""
    return rng.choice(world.people + [p for p in world.holder.values() if p])


def ask_what_has(rng, world):
    person = holder_biased(rng, world)
    held = world.held_by(person)
    question = rng.choice(["What does {} have?", "What is {} holding?",
                           "What is {} carrying now?"]).format(person)
    answer = listed([f"the {o}" for o in held]) if held else "nothing"
    return "what_has", question, things_of(world, person), f"{person} has {answer}."


def ask_count_things(rng, world):
    person = holder_biased(rng, world)
    held = len(world.held_by(person))
    question = rng.choice(["How many things does {} have?", "How many things is {} holding?",
                           "How many things is {} carrying?"]).format(person)
    answer = f"{person} has {NUMBERS[held]} thing{'' if held == 1 else 's'}."
    return "count_things", question, things_of(world, person), answer


def ask_count_people(rng, world):
    place = rng.choice(world.places + 2 * list(world.at.values()))
    question = rng.choice(["How many people are in the {}?",
                           "How many people are in the {} now?"]).format(place)
    lines, count = [], 0
    for person in world.people:
        where = world.at[person]
        mark = compared(where, place) + following(world.people, person)
        line = f"{person} is in the [{where}~{person}{mark}]"
        if world.at[person] == place:
            count += 1
            line += f", {NUMBERS[count]}"
        lines.append(line + ".")
    answer = ("There is one person" if count == 1 else f"There are {NUMBERS[count]} people")
    return "count_people", question, " ".join(lines), f"{answer} in the {place}."


def ask_yes_no(rng, world):
    person = rng.choice(world.people)
    true_place = world.at[person]
    place = true_place if rng.random() < 0.5 else rng.choice(world.places)
    mark = compared(true_place, place)
    thinking = f"{person} is in the [{true_place}~{person}{mark}]{', yes' * (mark != '=')}."
    answer = "Yes" if place == true_place else "No"
    question = rng.choice(["Is {} in the {}?", "Is {} in the {} now?"]).format(person, place)
    return ("yes_no", question, thinking,
            f"{answer}, {person} is in the [{true_place}~{person}].")


def ask_absent(rng, world):
    if rng.random() < 0.5:
        name = rng.choice([n for n in NAMES if n not in world.people])
        asked, told = rng.choice([("Where is {}?", "where {} is"),
                                  ("Where is {} now?", "where {} is"),
                                  ("What does {} have?", "what {} has")])
    else:
        name = "the " + rng.choice([o for o in THINGS if o not in world.things])
        asked, told = rng.choice([("Where is {}?", "where {} is"),
                                  ("Where is {} now?", "where {} is"),
                                  ("Who has {}?", "who has {}")])
    thinking = f"{name[0].upper()}{name[1:]} is not in the story."
    return "absent", asked.format(name), thinking, f"The story does not say {told.format(name)}."


ASKERS = [(ask_where_person, 16), (ask_where_thing, 24), (ask_who_has, 16), (ask_what_has, 12),
          (ask_count_things, 12), (ask_count_people, 10), (ask_yes_no, 6), (ask_absent, 8)]


def ask(rng, world, only=None):
    """One question of a kind drawn by weight, or of the kind named by `only`."""
    if only:
        return globals()["ask_" + only](rng, world)
    asker = rng.choices([a for a, _ in ASKERS], [w for _, w in ASKERS])[0]
    return asker(rng, world)


def small_talk(rng):
    """(kind, message, thinking, answer) without a story: greetings, help, and what it cannot do."""
    if rng.random() < 0.6:
        answer, messages = rng.choice(CHAT)
        return "chat", rng.choice(messages), "There is no story here.", answer
    if rng.random() < 0.2:
        return ask_absent(rng, World([], [], []))
    text = rng.choice(OFF_TOPIC)
    while "{w}" in text:
        letters = "".join(rng.choice(string.ascii_lowercase) for _ in range(rng.randint(2, 9)))
        word = rng.choice([letters, letters.capitalize(), rng.choice(THINGS), rng.choice(PLACES),
                           rng.choice(NAMES),
                           rng.choice("cats dogs France China music the sea".split())])
        text = text.replace("{w}", word, 1)
    return "chat", text, "There is no story here.", OTHER
