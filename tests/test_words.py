"""The package and its documents say things in sentences, and have one word for one thing: that of the glossary."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from picopayments_cli.commands import COMMANDS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "picopayments_cli"
MODULES = sorted(PACKAGE.rglob("*.py"))
DOCUMENTS = [ROOT / "README.rst", ROOT / "CONTRIBUTING.rst", *sorted((ROOT / "docs").rglob("*.rst"))]
GLOSSARY = (ROOT / "docs" / "glossary.rst").read_text(encoding="utf-8")
FIRST = re.compile(r"(What|Whoever|The same,)(?= |$)")
END = re.compile(
    r"(?:(?<=[.!?])|(?<=[.!?][)\"'*`])|(?<=[.!?][*][*]))\s+|\n\s*\n|\n *(?:[*-] )+"
)  # of a sentence, paragraph or item
LITERAL = re.compile(r"``.*?``|`[^`\n]+`", re.DOTALL)
BLOCK = re.compile(r"(?m)^(\.\. code::|.*::$).*\n\n(?:(?: +.*)?\n)+")
INSTEAD = {  # of a pattern: the word that is taken here
    "account number|connection id|channel id": "handle",
    "(?:ab|un)ilateral(?:ly)?": "alone",
    "administrator|admin": "operator",
    "best block|chain ?head|chain tip": "tip",
    "beneficiary|recipient|receiver": "payee",
    "breach|justice|penalty": "punish",
    "bump(?:s|ed|ing)?|fee-bump": "raise",
    "commitment": "commit",
    "computer": "machine",
    "configuration": "settings",
    "cooperative(?:ly)?|mutual close": "agreed",
    "data ?dir|directory|directories|subdirectory": "folder",
    "escrow|funding transaction": "deposit",
    "force[- ]close": "close alone",
    "invoice": "payment request",
    "locking fee|fee for locking": "lock fee",
    "lonely": "alone",
    "off-chain|offchain|onchain": "on the chain",
    "pay-?out transaction|sweep(?:s|ed|ing)?": "payout",
    "preimage": "secret, or receipt",
    "reject(?:s|ed|ing|ion)?": "refuse",
    "reorgs?|reorganiz\\w+": "reorganisation",
    "sender": "payer, or who sent it",
    "sat|sats": "satoshis",
    "synchroni[sz]\\w+": "sync, or is current",
    "timeouts?|timed out": "time-out",
    "txs?|tx id": "transaction, txid",
    "user ?name": "user",
    "utxos?": "coin, unspent output",
}
OTHERS = {  # words of others, where they are spoken of
    "docs/scaling.rst": {"commitment"},  # Lightning's
    "picopayments_cli/regtest/blocks.py": {"commitment"},  # of the witness
}
COMMAND = re.compile(rf"(?<!`)`(?:{'|'.join(sorted(COMMANDS))})(?: [^`]*)?`(?!`)|\b[Rr]un sync\b")
ELSEWHERE = {  # of another machine, or another version
    "their `status` shows it in full",
    "run that version's `close` and `sync` there",
}
OF_BITCOIN_CORE = re.compile(r"picopayments_cli/(regtest/.*|chain/bitcoin|rpc)\.py")  # whose messages stand there


def docstrings(text: str) -> list[str]:
    """Every docstring of a module."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [ast.get_docstring(node) for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]
    return [docstring for docstring in found if docstring]


def comments(text: str) -> list[str]:
    """Every comment of a module."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return [token.string for token in tokens if token.type == tokenize.COMMENT]


def messages(module: str) -> Iterator[str]:
    """Every text of a module that has words: help, messages of errors, notes. No example of a command line."""
    for node in ast.walk(ast.parse(module)):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and " " in text and not text.startswith("--"):
            yield text


def prose(path: Path) -> str:
    """The words of a module or document, without code and literals."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        quoted = () if OF_BITCOIN_CORE.fullmatch(str(path.relative_to(ROOT))) else messages(text)
        text = "\n".join([*docstrings(text), *comments(text), *quoted])
    else:
        text = BLOCK.sub("\n", text)
    return LITERAL.sub(" ", text)


def sentences(text: str) -> list[str]:
    """The sentences of a text, from their first word on."""
    return [" ".join(sentence.split()).lstrip("-*#\"'( ") for sentence in END.split(text)]


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sentences_of_the_package_begin_otherwise(module: Path) -> None:
    text = module.read_text(encoding="utf-8")
    found = [each for part in (*comments(text), *messages(text)) for each in sentences(part)]
    assert [sentence for sentence in found if FIRST.match(sentence)] == []


@pytest.mark.parametrize("document", [*DOCUMENTS, ROOT / "CHANGELOG.rst"], ids=lambda path: path.name)
def test_sentences_of_the_documents_begin_otherwise(document: Path) -> None:
    found = sentences(document.read_text(encoding="utf-8"))
    assert len(found) > 5
    assert [sentence for sentence in found if FIRST.match(sentence)] == []


def test_a_sentence_is_found_wherever_it_begins() -> None:
    assert sentences("One.\n* **What is.** Two (three.) What\nwas?\n\nWhoever") == [
        *("One.", "What is.**", "Two (three.)", "What was?", "Whoever"),
    ]


@pytest.mark.parametrize("path", [*DOCUMENTS, *MODULES], ids=lambda path: str(path.relative_to(ROOT)))
def test_one_thing_has_one_word(path: Path) -> None:
    name, text = str(path.relative_to(ROOT)), " ".join(prose(path).split())
    found = {
        hit[0].lower(): word
        for pattern, word in INSTEAD.items()
        for hit in re.finditer(rf"(?i)(?<![\w./-])(?:{pattern})(?![\w/-])", text)
    }
    assert {wrong: right for wrong, right in found.items() if wrong not in OTHERS.get(name, ())} == {}


def test_the_words_that_are_taken_stand_in_the_glossary_or_are_plain() -> None:
    terms = {term for line in re.findall(r"(?m)^(\w.*)\n   ", GLOSSARY) for term in line.split(", ")}
    plain = {"alone", "agreed", "current", "folder", "machine", "operator", "refuse", "settings", "user"}
    assert len(terms) > 35
    assert {"commit", "deposit", "handle", "payee", "payment request", "payout", "punish", "raise", "tip"} <= terms
    assert not plain & terms


@pytest.mark.parametrize("term", re.findall(r"(?m)^(\w.*)\n   ", GLOSSARY))
def test_the_code_has_the_words_of_the_glossary(term: str) -> None:
    names = "\n".join(path.read_text(encoding="utf-8") for path in MODULES)
    for word in term.split(", "):
        assert re.search(rf"(?i){word.replace(' ', '[ _]')}", names), word


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_command_that_a_message_tells_to_type_begins_with_the_program(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    firsts = [node.body[0] for node in ast.walk(tree) if isinstance(node, kinds) and node.body]
    docs = {id(first.value) for first in firsts if isinstance(first, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            text = " ".join(node.value.split())
            for known in ELSEWHERE:
                text = text.replace(known, "")
            assert not COMMAND.search(text) or module.name == "commands.py", text
