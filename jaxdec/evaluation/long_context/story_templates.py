"""Names and sentences of stories about a merchant; our own, in the manner of The Sparse Frontier's."""

HERO = "Tamsin"
PLACES = (
    "Aldermoor", "Brackwater", "Castlefen", "Dunmere", "Eastmarch", "Fallowby", "Greyharbor", "Hollin", "Ironford", "Juniper",
    "Kestrel Bay", "Larkhill", "Marrowick", "Norwell", "Oxley", "Pinegate", "Quarry End", "Ravenstow", "Saltburn", "Thornbury",
    "Umberley", "Vexham", "Westering", "Yarrow",
)  # fmt: skip
PEOPLE = (
    "Agnes", "Bertram", "Clara", "Duncan", "Edith", "Fergus", "Greta", "Hugo", "Ines", "Jasper", "Klara", "Lorenz", "Mabel",
    "Nestor", "Olga", "Percy", "Quentin", "Rosa", "Silas", "Thelma", "Ursula", "Viktor", "Wanda", "Yves",
)  # fmt: skip
EVENTS = (
    "a wedding", "a horse race", "a spring fair", "a quarrel over a well", "the return of the fishing boats", "a chess match",
    "the opening of a bridge", "a puppet play", "the blessing of the fields", "a storm warning",
)  # fmt: skip
STATES = ("old", "polished", "cracked", "painted", "heavy", "tiny", "carved", "plain", "dusty", "fine", "bent", "rare")
MATERIALS = ("brass", "silver", "oak", "glass", "ivory", "copper", "leather", "stone", "silk", "clay")
THINGS = ("lamp", "flute", "mask", "bowl", "ring", "dagger", "mirror", "box", "bell", "comb", "cup", "belt")

ARRIVING = (
    "{hero} arrived in {place} before noon.",
    "After two days on the road {hero} reached {place}.",
    "The gates of {place} were open when {hero} came.",
)
WATCHING = (
    "Everyone there was talking about {event}.",
    "The streets were full because of {event}.",
    "That day people had gathered for {event}.",
)
MEETING = (
    "At the inn {hero} met {person}.",
    "It was {person} who came up to greet {hero}.",
    "{hero} had an appointment with {person}.",
)
TALKING = (
    "They spoke of the weather and the roads.",
    "For a while they compared prices in the north and in the south.",
    "There was some gossip about a toll that nobody paid.",
    "They drank tea and looked at the rain.",
    "An old joke made both of them laugh.",
    "They agreed that the summer had been too dry.",
)
BUYING = (
    "{hero} bought {item} from {person}.",
    "From {person} {hero} bought {item} after some haggling.",
    "In the end {hero} paid for {item} and packed it away.",
)
SELLING = (
    "{hero} sold {item} to {person}.",
    "{person} took {item} off {hero}'s hands for a fair price.",
    "In the same hour {hero} sold {item}.",
)
LEAVING = (
    "Towards evening {hero} moved on.",
    "{hero} said goodbye and left by the western road.",
    "The next morning {hero} was gone.",
)
