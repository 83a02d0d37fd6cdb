"""Diverse beam search (Vijayakumar et al. 2016): lists that are varied and no worse, at the cost of beam search.

Source: arXiv 1610.02424. The paper's captioning, translation and dialogue models become two small ones: a transformer trained
here on tasks whose right answers are all known (12 to 24 sentences in the short one, 144 to 576 in the long one), and
SmolLM2-135M continuing 30 texts.

    python -m experiments.reproduce --paper=diverse_beam_search --out=benchmarks/results/papers/diverse_beam_search

Expected figure: oracle BLEU of the list against the diversity strength lambda, an inverted U above beam search's level;
distinct n-grams against lambda, rising. Time: about 20 minutes on 2 cores, 25 if others use them too; the smoke run one
minute. Needs no accelerator; fetches SmolLM2-135M-Instruct once (the smoke run uses a tiny random model instead).
"""

from ml_collections import ConfigDict

PROMPTS = (
    "The old lighthouse keeper opened the door and",
    "My favourite way to spend a Sunday is",
    "The scientists were surprised to find that",
    "In the middle of the night, she heard",
    "When the train finally arrived,",
    "The best thing about living in a small town is",
    "Nobody had expected the mayor to",
    "If you want to learn a new language, you should",
    "The recipe calls for two eggs and",
    "After ten years abroad, he decided to",
    "The museum's newest exhibition shows",
    "A good teacher always",
    "The storm that hit the coast last night",
    "On the first day of school,",
    "The company announced on Monday that",
    "Her grandmother used to tell her that",
    "The main cause of the delay was",
    "In the garden behind the house",
    "Most people do not realise that",
    "The dog looked at the empty bowl and",
    "To repair the bicycle, you will need",
    "The meeting ended when",
    "Far away, on the other side of the river,",
    "The new law allows citizens to",
    "He put the letter on the table and",
    "During the winter months, the village",
    "The astronaut looked out of the window and",
    "What makes this book special is",
    "The two brothers had always",
    "At the end of the street there was",
)


def get_config() -> ConfigDict:
    """Sizes, grids and seeds."""
    config = ConfigDict()
    config.seed = 0
    config.widths = (6, 12)  # beams in all; what the paper calls B
    config.strengths = (0.2, 0.5, 0.8, 2.0)  # lambda
    config.sibling_penalties = (0.2, 0.5, 1.0, 2.0)  # gamma of Li, Monroe & Jurafsky 2016

    config.paraphrases = ConfigDict()
    config.paraphrases.tasks = ConfigDict()
    config.paraphrases.tasks.short = ConfigDict({"num_clauses": 1, "groups": (2, 3), "train_steps": 2000})
    config.paraphrases.tasks.long = ConfigDict({"num_clauses": 2, "groups": (), "train_steps": 3000})
    config.paraphrases.more_strengths = (0.0, 8.0)  # ends of the curve
    config.paraphrases.hidden_size = 64
    config.paraphrases.num_layers = 3
    config.paraphrases.train_batch = 64
    config.paraphrases.learning_rate = 3e-3
    config.paraphrases.num_validation = 100  # held-out meanings on which lambda, G and gamma are chosen
    config.paraphrases.num_test = 200
    config.paraphrases.num_references = 4  # sentences drawn for each meaning, as a data set would have
    config.paraphrases.batch_size = 50

    config.continuations = ConfigDict()
    config.continuations.model = "smollm2-135m-instruct"  # "" is a tiny random model
    config.continuations.prompts = PROMPTS
    config.continuations.groups = (2, 3)  # and, as in the tasks, as many groups as beams
    config.continuations.max_new_tokens = 20
    config.continuations.batch_size = 5
    config.continuations.sibling_penalties = (0.5, 1.0)
    config.continuations.timing_strength = 0.5
    config.continuations.timing_rounds = 7

    config.smoke = ConfigDict()
    config.smoke.widths = (4,)
    config.smoke.strengths = (0.5, 2.0)
    config.smoke.sibling_penalties = (0.5,)
    config.smoke.paraphrases = ConfigDict()
    config.smoke.paraphrases.more_strengths = ()
    config.smoke.paraphrases.hidden_size = 32
    config.smoke.paraphrases.num_layers = 1
    config.smoke.paraphrases.tasks = ConfigDict()
    config.smoke.paraphrases.tasks.short = ConfigDict({"groups": (2,), "train_steps": 60})
    config.smoke.paraphrases.tasks.long = ConfigDict({"train_steps": 60})
    config.smoke.paraphrases.num_validation = 5
    config.smoke.paraphrases.num_test = 10
    config.smoke.paraphrases.batch_size = 15
    config.smoke.continuations = ConfigDict()
    config.smoke.continuations.model = ""
    config.smoke.continuations.prompts = PROMPTS[:4]
    config.smoke.continuations.groups = (2,)
    config.smoke.continuations.max_new_tokens = 8
    config.smoke.continuations.batch_size = 4
    config.smoke.continuations.sibling_penalties = (0.5,)
    config.smoke.continuations.timing_rounds = 2
    return config
