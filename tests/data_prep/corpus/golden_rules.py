"""Texts that lie at a rule's limit and one step beyond it, and what datatrove 0.10.1 decides of them, each rule asked alone.

`python tests/benchmarks/bench_filter.py --only golden` asks it again. Words and lines are plain, so that its words are ours.
"""

from __future__ import annotations

from itertools import product


def fresh(number: int, size: int) -> list[str]:
    """Different words of `size` letters."""
    found = ["".join(letters) for letters, _ in zip(product("bcdfghjklm", repeat=size), range(number), strict=False)]
    assert len(found) == number
    return found


def filled(start: str, size: int) -> str:
    """The text, a space, and different words up to exactly `size` characters."""
    room = size - len(start) - 1
    words = fresh((room + 1) // 4, 3)
    text = f"{start} {' '.join(words)}"
    return text + "n" * (size - len(text))


def lined(rows: list[str], size: int, gap: str = "\n") -> str:
    """The rows, and one more up to exactly `size` characters."""
    text = gap.join(rows) + gap
    return text + "z" * (size - len(text))


def gram(n: int, letters: int) -> str:
    """n different words with so many letters together."""
    longer = letters - n
    return " ".join("aeiouwxyqv"[place] * (1 + longer // n + (place < longer % n)) for place in range(n))


def near_limits() -> dict[str, list[tuple[str, bool]]]:
    """By rule: (text, whether datatrove drops it)."""
    cases: dict[str, list[tuple[str, bool]]] = {
        "min_words": [(" ".join(fresh(49, 4)), True), (" ".join(fresh(50, 4)), False), (" ".join([*fresh(49, 4), "?!"]), True)],
        "max_words": [("a " * 100_000, False), ("a " * 100_001, True)],
        "min_mean_word": [("abc de fghi", False), ("abc de fgh", True), ("abc . def", False)],
        "max_mean_word": [("abcdefghij " * 3, False), ("abcdefghij " * 3 + "abcdefghijk", True)],
        "symbol_ratio": [("# " + "word " * 9, False), ("# " + "word " * 8, True), ("well … " + "word " * 8, False), ("so … " * 3, True)],
        "bullet_lines": [("- one\n" * 9 + "two", False), ("- one\n" * 10, True), ("• one\n" * 19 + "two", True)],
        "ellipsis_lines": [("on and on ...\n" * 3 + "end\n" * 7, False), ("on and on …\n" * 4 + "end\n" * 6, True)],
        "alphabetic_words": [("word " * 8 + "1 2", False), ("word " * 7 + "1 2 3", True)],
        "stop_words": [("the house with a roof", False), ("the house a roof", True), ("the house and the roof", False)],
        "duplicate_lines": [("\n".join([*"abcdefg", *"aaa"]), False), ("\n".join([*"abcdef", *"aaaa"]), True)],
        "duplicate_line_characters": [(lined(["a" * 20] * 2, 100), False), (lined(["a" * 20] * 2, 99), True)],
        "duplicate_paragraphs": [("\n\n".join([*"abcdefg", *"aaa"]), False), ("\n\n\n".join([*"abcdef", *"aaaa"]), True)],
        "duplicate_paragraph_characters": [(lined(["a" * 20] * 2, 100, "\n\n"), False), (lined(["a" * 20] * 2, 99, "\n\n"), True)],
        "terminal_lines": [("End.\n" * 3 + "no end\n" * 22, False), ("End.\n" * 2 + "no end\n" * 23, True), ("End?\nEnd!", False)],
        "short_lines": [
            ("x" * 30 + "\n" + ("short\n" * 66 + ("y" * 31 + "\n") * 33), False),
            ("x" * 30 + "\n" + ("short\n" * 67 + ("y" * 31 + "\n") * 32), True),
        ],
        "repeated_line_characters": [("ab\nab\n" + "z" * 196, False), ("ab\nab\n" + "z" * 195, True)],
        "line_breaks": [("a b c\n" * 3 + "d", False), ("a b c\n" * 3 + "\nd", True), ("a b\n\n\nc d e f g h i j", False)],
        "lorem_ipsum": [("It says lorem Ipsum here.", True), ("It says lorem and ipsum.", False), ("A heading lorem ipsum", False)],
        "curly_brackets": [("It is { in code.", True), ("It is } in code.", False), ("int main() {", False)],
        "sentences": [("All is well. " * 5, False), ("All is well. " * 4, True), ("All is well.\n" * 5 + "No end", False)],
    }
    for n, share in ((2, 20), (3, 18), (4, 16)):
        cases[f"top_{n}_gram"] = [(filled(" ".join([gram(n, share // 2 - n + 1)] * 2), 100 + less), less < 0) for less in (0, -1)]
    for n, share in ((5, 15), (6, 14), (7, 13), (8, 12), (9, 11), (10, 10)):
        cases[f"duplicate_{n}_grams"] = [(filled(" ".join([gram(n, share)] * 2), 100 + less), less < 0) for less in (0, -1)]
    return cases


PROSE = (
    "In the spring of that year the two brothers went to live with their aunt, who kept a small inn by the harbour. "
    "The older one soon learned to mend nets and to read the weather, while the younger spent whole days with a Dutch "
    "sailor, listening to stories of storms, whales and cities built of coral. Neither of them wished to go back to school. "
    "When winter came and the boats stayed on land, they began to build one of their own from what the sea had left behind. "
    "Nobody in the village believed that it would float."
)
MENU = "Home\nProducts\nPrices\nAbout us\nContact\nHelp\nSign in\n\nHome\nProducts\nPrices\nAbout us\nContact\nHelp\nSign in"
SPAM = "buy cheap shoes online today with free delivery to all of the country " * 12
CODE = "for (i = 0; i < 10; i++) {\n  total += i;\n}\nThe instruction above calculates the total of the numbers up to nine, nothing else."
NUMBERS = "\n".join(f"{year} {year * 7} {year * 13} {year % 9}" for year in range(1990, 2020))
BULLETED = "\n".join(f"- {line} ..." for line in PROSE.split(", "))

# What datatrove drops each text by, every rule asked alone.
WHOLE: dict[str, tuple[str, frozenset[str]]] = {
    "prose": (PROSE, frozenset()),
    "menu": (MENU, frozenset({
        "duplicate_5_grams", "duplicate_6_grams", "duplicate_7_grams", "duplicate_8_grams", "duplicate_9_grams",
        "duplicate_line_characters", "duplicate_lines", "duplicate_paragraph_characters", "duplicate_paragraphs", "line_breaks",
        "min_words", "repeated_line_characters", "sentences", "short_lines", "stop_words", "terminal_lines", "top_2_gram",
        "top_3_gram", "top_4_gram",
    })),
    "spam": (SPAM, frozenset({
        "duplicate_10_grams", "duplicate_5_grams", "duplicate_6_grams", "duplicate_7_grams", "duplicate_8_grams",
        "duplicate_9_grams", "sentences", "terminal_lines", "top_3_gram", "top_4_gram",
    })),
    "code": (CODE, frozenset({
        "alphabetic_words", "min_words", "sentences", "short_lines",
    })),
    "numbers": (NUMBERS, frozenset({
        "alphabetic_words", "sentences", "short_lines", "stop_words", "terminal_lines",
    })),
    "bullets": (BULLETED, frozenset({
        "bullet_lines", "ellipsis_lines", "sentences",
    })),
}  # fmt: skip
