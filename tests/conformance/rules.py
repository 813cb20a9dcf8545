"""The rules of a standard, found mechanically: every sentence with one of RFC 2119's words, numbered by section."""

from __future__ import annotations

import re

KEYWORD = re.compile(r"\b(MUST|SHALL|SHOULD|RECOMMENDED|REQUIRED)\b")
HEADING = re.compile(r"^(\d+(?:\.\d+)*)\.\s{1,3}(\S.*)$")
PAGE_FURNITURE = re.compile(r"^(\S.*\[Page \d+\]|RFC \d+ .*\d{4})$")
SENTENCE_END = re.compile(r"(?<=[.;])\s+(?=[A-Z(\[])")
PARAGRAPH_MINIMUM = 50


def rules(text: str) -> dict[str, str]:
    """Sentences by ``section/number``, in the order of the document."""
    found: dict[str, str] = {}
    counts: dict[str, int] = {}
    for section, paragraph in _paragraphs(text):
        for sentence in SENTENCE_END.split(paragraph):
            if KEYWORD.search(sentence):
                counts[section] = counts.get(section, 0) + 1
                found[f"{section}/{counts[section]}"] = sentence
    return found


def _paragraphs(text: str) -> list[tuple[str, str]]:
    """Paragraphs with their sections; one that a page break has cut is put together again."""
    section, lines = "0", [""]
    paragraphs: list[tuple[str, str]] = []

    def end() -> None:
        paragraph = " ".join(line.strip() for line in lines if line.strip())
        lines.clear()
        if not paragraph:
            return
        before_section, before = paragraphs[-1] if paragraphs else ("", "")
        cut = len(before) > PARAGRAPH_MINIMUM and not re.search(r'[.:;!?)"|+]$', before)
        if before_section == section and cut and re.match(r"[a-z(]|[A-Z]{2,}", paragraph):
            paragraphs[-1] = (section, f"{before} {paragraph}")
        else:
            paragraphs.append((section, paragraph))

    for line in text.replace("\f", "\n").split("\n"):
        if PAGE_FURNITURE.match(line):
            continue
        heading = HEADING.match(line)
        if heading is not None and " . " not in line and "...." not in line:
            end()
            section = heading[1]
        elif not line.strip():
            end()
        elif re.match(r"^(Appendix|[A-Z]\.\d)", line):
            end()
            section = "appendix"
        else:
            lines.append(line)
    end()
    return paragraphs
