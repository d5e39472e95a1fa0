"""The most frequent small words of languages that write them apart: a text of fifty words without two of them is a list or a jumble.

English has the eight of Gopher (Rae et al. 2021, appendix A.1.1). The others are ours: eight to twelve of the most frequent function
words. None are given where a language joins them to others (Korean) or has no spaces (Chinese, Thai): there the rule is not asked.
"""

from __future__ import annotations

from collections.abc import Mapping

STOP_WORDS: Mapping[str, tuple[str, ...]] = {
    language: tuple(words.split())
    for language, words in {
        "en": "the be to of and that have with",
        "ar": "في من على أن إلى هذا التي أو",
        "bg": "на и да за от се е в",
        "cs": "a se v na je že s do o z k i",
        "da": "og i det at er på til af",
        "de": "der die und in zu den das von",
        "el": "και το να του της η που με",
        "es": "de la que el en y a los",
        "fa": "و در به از که این را با",
        "fi": "ja on ei että se tai joka hän ovat hänen kun sen",
        "fr": "de la le et les des à en",
        "he": "של את על לא הוא זה כי או עם גם כל אל",
        "hi": "के में की है और से को का",
        "hu": "a az és hogy nem is egy van",
        "id": "yang dan di dengan untuk dari atau ini",
        "it": "di e la il che in a per",
        "nl": "de van het een en in is dat",
        "no": "og i det på er som til av",
        "pl": "i w na nie z się do że",
        "pt": "de a que e o do da em",
        "ro": "și de în a la cu pe care",
        "ru": "и в не на что с по как его или для из",
        "sk": "a v na sa je že s do o z k i",
        "sv": "och att det som en på är av i till för med",
        "tr": "ve bir bu da de için ile olarak her veya çok gibi",
        "uk": "і в на що не з до та",
        "vi": "và của là có không được cho các",
    }.items()
}
