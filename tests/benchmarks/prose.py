"""English sentences that are not STS-B's, unlabelled, from packages: articles, news, sayings, examples.

Articles of Wikipedia and news of the Australian broadcaster are what gensim is tested with; sayings are those
of Debian's fortunes; examples and definitions are WordNet's (wordnet-base).
"""

import bz2
import html
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import shared

_GENSIM = "4.4.0"
_SENTENCE_END = re.compile(r"(?<=[.!?]) (?=[\"'A-Z])")
_MARKUP = re.compile(
    r"<ref[^>]*/>|<ref.*?</ref>|<!--.*?-->|<[^>]*>|\[\[(?:File|Image|Category):[^\[\]]*\]\]|''+", re.DOTALL
)
_LINK = re.compile(r"\[\[(?:[^|\[\]]*\|)?([^\[\]]*)\]\]")
_TEMPLATE = re.compile(r"\{\{[^{}]*\}\}|\{\|[^{}]*\|\}")


def _sentences(text: str) -> list[str]:
    """Those of a paragraph that are mostly letters."""
    found = _SENTENCE_END.split(re.sub(r"\s+", " ", text).strip())
    return [
        sentence
        for sentence in found
        if 25 <= len(sentence) <= 220
        and sum(letter.isalpha() or letter == " " for letter in sentence) > 0.85 * len(sentence)
    ]


def _gensim(name: str) -> Path:
    return shared.package("pip", "gensim", _GENSIM) / "gensim" / "test" / "test_data" / name


def articles() -> Iterator[str]:
    """Sentences of a hundred articles."""
    packed = _gensim("enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2").read_bytes()
    pages = re.findall(r"<text[^>]*>(.*?)</text>", bz2.decompress(packed).decode(), re.DOTALL)
    for page in pages:
        text = _MARKUP.sub("", html.unescape(html.unescape(page)))
        for _ in range(4):  # they are nested
            text = _TEMPLATE.sub("", text)
        for line in _LINK.sub(r"\1", text).splitlines():
            if not set(line) & set("|={}[]"):
                yield from _sentences(line.lstrip("*#:; "))


def news() -> Iterator[str]:
    """Sentences of 350 items of news."""
    for name in ("lee_background.cor", "lee.cor"):
        for line in _gensim(name).read_text(encoding="utf-8", errors="replace").splitlines():
            yield from _sentences(line)


def sayings() -> Iterator[str]:
    """Sentences of fortune cookies."""
    for name in ("fortunes", "fortunes-min"):
        folder = shared.package("apt", name) / "usr" / "share" / "games" / "fortunes"
        for path in sorted(folder.iterdir()):
            if path.suffix:
                continue
            for saying in path.read_text(encoding="utf-8", errors="replace").split("\n%\n"):
                yield from _sentences(re.sub(r"\n\s*--.*", "", saying, flags=re.DOTALL))


def examples(*, definitions: bool = False) -> Iterator[str]:
    """WordNet's examples; with definitions too, every other one behind its word."""
    folder = shared.package("apt", "wordnet-base") / "usr" / "share" / "wordnet"
    count = 0
    for path in sorted(folder.glob("data.*")):
        for line in path.read_text(encoding="latin1").splitlines():
            left, bar, gloss = line.partition(" | ")
            if not bar:
                continue
            quoted = re.findall(r'"([^"]{15,200})"', gloss)
            yield from quoted
            count += len(quoted)
            definition = re.sub(r'\s*;?\s*"[^"]*"', "", gloss).strip(" ;")
            if definitions and len(definition) >= 15:
                word = left.split()[4].split("(")[0].replace("_", " ")
                yield f"{word}: {definition}" if count % 2 else definition
                count += 1


def mixed(count: int) -> list[str]:
    """So many sentences: a third of articles, a fifth each of news and sayings, examples."""
    random, found = np.random.RandomState(0), []
    for source, share in ((articles, 0.35), (news, 0.2), (sayings, 0.2), (examples, 1.0)):
        texts = list(source())
        most = min(round(share * count), len(texts), count - len(found))
        found += [texts[number] for number in random.permutation(len(texts))[:most]]
    return found
