"""The small world of the demo model: its words and its facts. Data only."""

NAMES = ["Mia", "Tom", "Ana", "Ben", "Lily", "Max", "Sara", "Leo", "Nina", "Sam", "Ella", "Jack", "Ruby", "Finn", "Rosa", "Otto"]
PETNAMES = ["Pip", "Momo", "Tula", "Bo", "Kiki", "Nilo", "Dot", "Fern", "Hugo", "Lumi", "Rolo", "Zuzu", "Toby", "Wren", "Olly", "Mina"]

COLOURS = ["red", "blue", "green", "yellow", "white", "black", "brown", "orange", "pink", "purple"]

# thing as it is written in a sentence -> its colour
COLOUR_OF = {
    "grass": "green", "the sky": "blue", "the sun": "yellow", "snow": "white", "coal": "black", "a lemon": "yellow",
    "a tomato": "red", "a carrot": "orange", "milk": "white", "a frog": "green", "a banana": "yellow", "chocolate": "brown",
    "a strawberry": "red", "a pumpkin": "orange", "the night": "black", "the sea": "blue", "a leaf": "green", "a pig": "pink",
    "a plum": "purple", "a crow": "black", "a swan": "white", "a cherry": "red", "bread": "brown", "a pea": "green",
}

OPPOSITES = [("hot", "cold"), ("big", "small"), ("fast", "slow"), ("happy", "sad"), ("day", "night"), ("up", "down"),
             ("open", "closed"), ("wet", "dry"), ("new", "old"), ("long", "short"), ("hard", "soft"), ("full", "empty"),
             ("light", "dark"), ("loud", "quiet"), ("early", "late"), ("clean", "dirty"), ("left", "right"), ("heavy", "weightless"),
             ("strong", "weak"), ("sweet", "sour"), ("near", "far"), ("high", "low"), ("first", "last"), ("rich", "poor"),
             ("good", "bad"), ("thick", "thin"), ("true", "false"), ("yes", "no"), ("win", "lose"), ("push", "pull")]

SOUNDS = {"cow": "moo", "dog": "woof", "cat": "meow", "duck": "quack", "sheep": "baa", "pig": "oink", "lion": "roar", "owl": "hoot",
          "bee": "buzz", "snake": "hiss", "frog": "croak", "mouse": "squeak", "hen": "cluck", "horse": "neigh", "crow": "caw",
          "donkey": "hee-haw", "wolf": "howl", "bird": "tweet", "goose": "honk", "bear": "growl"}
YOUNG = {"dog": "puppy", "cat": "kitten", "cow": "calf", "sheep": "lamb", "hen": "chick", "horse": "foal", "bear": "cub",
         "duck": "duckling", "goat": "kid", "frog": "tadpole", "swan": "cygnet", "pig": "piglet", "owl": "owlet", "goose": "gosling"}
HOMES = {"bird": "a nest", "bee": "a hive", "fish": "the water", "dog": "a kennel", "rabbit": "a burrow", "bear": "a cave",
         "spider": "a web", "horse": "a stable", "fox": "a den", "pig": "a sty", "hen": "a coop", "mouse": "a hole"}
LEGS = {"dog": "four", "cat": "four", "spider": "eight", "bird": "two", "bee": "six", "ant": "six", "horse": "four", "hen": "two",
        "snake": "no", "fish": "no", "cow": "four", "duck": "two", "fly": "six", "frog": "four"}
CLASSES = {"apple": "fruit", "pear": "fruit", "cherry": "fruit", "banana": "fruit", "plum": "fruit", "grape": "fruit",
           "dog": "animal", "horse": "animal", "fox": "animal", "cow": "animal", "lion": "animal", "goat": "animal",
           "rose": "flower", "tulip": "flower", "daisy": "flower", "hammer": "tool", "saw": "tool", "spade": "tool",
           "drum": "toy", "doll": "toy", "kite": "toy", "crow": "bird", "owl": "bird", "swan": "bird", "duck": "bird"}

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"]

THINGS = ["ball", "kite", "hat", "cup", "book", "boat", "box", "coat", "drum", "bell", "bag", "bike", "lamp", "chair", "scarf", "pen",
          "doll", "cake", "flag", "key", "ring", "rope", "shoe", "spoon"]
FOODS = ["apples", "pears", "plums", "nuts", "eggs", "cakes", "grapes", "carrots", "cherries", "buns"]
GOODS = ["coins", "stamps", "shells", "marbles", "stones", "pens", "books", "buttons", "cards", "stars"]
PETS = ["cat", "dog", "mouse", "hen", "frog", "duck", "rabbit", "bird"]
SPOTS = ["under the table", "on the roof", "in the garden", "behind the door", "near the gate", "in the box", "under the bed", "on the chair",
         "behind the tree", "in the kitchen"]

# words whose letters the model knows
SPELLED = sorted(set(["cat", "dog", "sun", "moon", "star", "tree", "fish", "bird", "book", "milk", "hat", "cup", "door", "snow", "rain", "wind",
                      "frog", "lamp", "boat", "cake", "leaf", "rose", "apple", "bread", "horse", "house", "river", "water", "green", "lantern",
                      "garden", "window", "yellow", "flower", "winter", "summer", "island", "orange", "queen", "zebra", "jam", "violin"]))

# who and what the stories are about
HEROES = ["fox", "bear", "rabbit", "mouse", "cat", "dog", "frog", "duck", "owl", "hedgehog", "squirrel", "badger", "pony", "goat", "lamb",
          "turtle", "otter", "beaver", "robin", "mole", "dragon", "robot", "giant", "snail"]
OBJECTS = ["lantern", "kite", "drum", "ball", "boat", "bell", "hat", "map", "key", "book", "basket", "scarf", "blanket", "cup", "flute", "umbrella",
           "cookie", "pumpkin", "balloon", "wagon", "mirror", "feather", "button", "ladder"]

# things people ask that the model does not know
UNKNOWN = ["the capital of France", "the president", "the weather", "a computer", "quantum physics", "football", "history", "music", "a car engine",
           "China", "the internet", "politics", "a galaxy", "medicine", "cooking rice", "Shakespeare", "the stock market", "chess", "the war", "Python",
           "a recipe", "my homework", "electricity", "gravity", "the news", "a movie", "Africa", "the king", "money", "a telephone"]


def article(word):
    """"a" or "an", by sound; the words here have no silent h."""
    return ("an " if word[0] in "aeiou" else "a ") + word
