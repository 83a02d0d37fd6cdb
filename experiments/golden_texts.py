"""Inputs of :mod:`experiments.golden`: texts to tokenize and prompts to continue."""
# ruff: noqa: RUF001 - letters that look like others are the point

import random

TEXTS = [
    "a", " ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", " \n ", "a ", " a", "  a", "a  b", "a   b    c     d",
    "\xa0", "a\xa0b", "\u2003em space", "\u3000", "line\nbreak", "line\n\nbreak", "line\n \nbreak",
    "trailing   ", "trailing\n", "\ttab\ttab", "a\r\nb\rc", "Hello, world!",
    "The quick brown fox jumps over the lazy dog.", "don't", "I'm", "they'll we've you're he'd it's",
    "DON'T I'M", "'s", "x's", "x'S", "''s", "rock 'n' roll", "(parenthesis)", "[brackets]", "{braces}",
    "<angle>", "...", "....", "?!?!", "--", "—", "“quoted”", "«guillemets»", "it’s", "a/b\\c", "C:\\Users\\me",
    "/usr/local/bin", "https://example.org/a?b=c&d=e#f", "me@example.org", "0", "1", "12", "123", "1234",
    "12345678901234567890", "1.5", "3.14159", "-1", "1e-9", "0x1F", "1,000,000", "2026-11-24", "10:45", " 1",
    "  1", "   12", "a1", "a 1", "a  1", "1 a", "1  a", "1a2b3c", "v1.2.3", "50%", "$5", "€5", "№5", "²",
    "x²+y³", "½", "Ⅷ", "①②③", "١٢٣", "१२३", "１２３", "1\n2\n3", "1\t2", "1 2 3", "1  2  3", "[1, 2, 3]",
    "def f(x):\n    return x + 1\n", "for i in range(10):\n\tprint(i)", "if (a && b || !c) { return a[i++]; }",
    "#include <stdio.h>\nint main(void) { return 0; }", "x = np.zeros((3, 4), dtype=np.float32)",
    "SELECT * FROM t WHERE id = 42;", "<html><body class=\"x\">&nbsp;</body></html>",
    "{\"key\": [1, 2.5, null, true]}", "a_b_c", "camelCase", "PascalCaseWord", "SCREAMING_SNAKE",
    "kebab-case-word", "import os, sys  # comment", "fn main() -> Result<(), Box<dyn Error>> {",
    "$\\sum_{i=1}^{n} i = \\frac{n(n+1)}{2}$", "∀x∈ℝ: x²≥0", "a→b⇒c", "α β γ δ", "Привет, мир!", "Ελληνικά",
    "עברית", "العربية", "हिन्दी", "ภาษาไทย", "日本語のテキスト", "中文文本，标点。", "한국어", "ქართული", "Tiếng Việt",
    "Čeština řeší žluťoučký kůň", "Straße", "naïve café", "é", "é", "ﬁ", "Å", "Å", "🙂", "👍🏽",
    "👩\u200d👩\u200d👧\u200d👦", "🇫🇷🇩🇪", "🏳️\u200d🌈", "text🙂text", " 🙂 ", "🙂🙂🙂", "\u200b", "a\u200bb", "\ufeff",
    "\u202e", "\xad", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_start|>user\nHi<|im_end|>\n",
    "a<|im_end|>b", " <|im_end|> ", "<|im_start|", "<|im_start|><|im_end|>", "<| im_start |>",
    "<repo_name>x<file_sep>y", "<empty_output>", "<|im_sta\nrt|>", "<unk>", "<s>", "</s>",
    "supercalifragilisticexpialidocious", "antidisestablishmentarianism", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "ababababab", "AAAA", "zzzzz", "The capital of France is Paris.",
    "Once upon a time, in a land far away, there lived a king who had three daughters.", "U.S.A.",
    "e.g., i.e.", "well-known", "1st 2nd 3rd 4th", "Dr. Smith's 2 dogs", "50/50", "24/7", "A.D. 79", "\x01",
    "a\x02b", "\x7f", "\x1b[0m", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "𐍈", "𠜎", "\u0378",
]  # fmt: skip
ALPHABETS = {
    "ascii": [
        " ", "!", "\"", "#", "$", "%", "&", "'", "(", ")", "*", "+", ",", "-", ".", "/", "0", "1", "2", "3",
        "4", "5", "6", "7", "8", "9", ":", ";", "<", "=", ">", "?", "@", "A", "B", "C", "D", "E", "F", "G",
        "H", "I", "J", "K", "L", "M", "N", "O", "P", "Q", "R", "S", "T", "U", "V", "W", "X", "Y", "Z", "[",
        "\\", "]", "^", "_", "`", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o",
        "p", "q", "r", "s", "t", "u", "v", "w", "x", "y", "z", "{", "|", "}", "~", "\n", "\t",
    ],
    "words": [
        "the", "of", "and", " ", " ", " ", "  ", "ing", "tion", ",", ".", "\n", "'s", "un", "able", "2", "10",
        "(", ")",
    ],
    "spaces": [
        " ", " ", "\n", "\t", "a", "1", ".", "\r",
    ],
    "digits": [
        "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", " ", ".", "x", ",", "-",
    ],
    "letters": [
        "a", "e", "i", "o", "u", "ä", "é", "ñ", "ø", "ß", "ç", "ж", "ц", "щ", "я", "α", "β", "γ", "ה", "ו",
        "א", "ب", "ت", "ث", "अ", "आ", "क", "中", "文", "字", "日", "本", "語", "한", "글",
    ],
    "symbols": [
        "!", "\"", "#", "$", "%", "&", "'", "(", ")", "*", "+", ",", "-", ".", "/", ":", ";", "<", "=", ">",
        "?", "@", "[", "\\", "]", "^", "_", "`", "{", "|", "}", "~", "<|im_start|>", "<|im_end|>", "a", " ",
        "1",
    ],
    "emoji": [
        "🙂", "👍🏽", "❤️", "🇮🇹", "👩\u200d🚀", " ", "a", "1", "\u200d", "️",
    ],
    "code": [
        "def ", "(", ")", ":", "\n    ", "\n\t", "self", ".", "_", "x", "==", "!=", "0", "1", "\"", "#", " ",
        "{", "}", ";",
    ],
}  # fmt: skip


def texts(num_random: int = 25) -> list[str]:
    """Texts to tokenize: those above, and random ones from each alphabet."""
    rng = random.Random(0)
    drawn = [
        "".join(rng.choices(alphabet, k=rng.randint(2, 24)))
        for alphabet in ALPHABETS.values()
        for _ in range(num_random)
    ]
    return list(dict.fromkeys([*TEXTS, *drawn]))


def sentencepiece_texts(num_random: int = 60) -> list[str]:
    """Texts for the small SentencePiece vocabulary, most of them within its alphabet."""
    rng = random.Random(1)
    alphabet = [
        *"abaabcdehlorti 12., ",
        "é",
        "日",
        "本",
        "the",
        "and",
        "hello",
        " world",
        "  ",
        "x",
        "\n",
        "🙂",
        "<s>",
        "</s>",
    ]
    fixed = [
        "hello world",
        " hello",
        "hello ",
        "  ",
        "the",
        "aaaaa",
        "ababa",
        "x",
        "</s>",
        "a</s>b",
        "a </s> b",
        "日本語",
        ".....",
    ]
    return list(
        dict.fromkeys([*fixed, *("".join(rng.choices(alphabet, k=rng.randint(1, 16))) for _ in range(num_random))])
    )


LONG = (
    "The history of the lighthouse is older than the towers that come to mind today. Before there were any clearly "
    "defined ports, mariners were guided by fires built on hilltops. Raising the fire would improve its "
    "visibility, so placing it on a platform became a practice that led to the development of the lighthouse. In "
    "antiquity, the lighthouse worked more as an entrance marker to ports than as a warning signal for reefs and "
    "promontories, unlike many modern lighthouses. The most famous of them stood on the island of Pharos in front "
    "of the city of Alexandria, and gave its name to the thing in several languages. It was built in the third "
    "century before our era, and was for many centuries among the tallest structures made by people. "
)
CODE = (
    'def binary_search(items, target):\n    """Return the index of target in the sorted list items, or '
    '-1."""\n    low, high = 0, len(items) - 1\n    while low <= high:\n        middle = (low + high) // 2\n'
)
CHATS = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "user", "content": "Hi"}],
    [{"role": "user", "content": "Write a haiku about the sea."}],
    [{"role": "user", "content": "What is 17 + 25? Answer with the number only."}],
    [{"role": "system", "content": "You answer in French."}, {"role": "user", "content": "How are you today?"}],
    [
        {"role": "user", "content": "Name a colour."},
        {"role": "assistant", "content": "Blue."},
        {"role": "user", "content": "Another one, please."},
    ],
    [{"role": "user", "content": "List three fruits, separated by commas."}],
    [{"role": "user", "content": "Summarise in one sentence:\n\n" + LONG}],
    [{"role": "user", "content": "Explain this function:\n```python\n" + CODE + "```"}],
    [{"role": "user", "content": "Translate to German: good morning 🙂"}],
]
RAW = [
    "The",
    "Once upon a time",
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "1, 2, 3, 4, 5,",
    "La tour Eiffel se trouve à",
    "Dear Sir or Madam,\n\nI am writing to",
    LONG,
    CODE,
    "Q: Why is the sky blue?\nA:",
]
