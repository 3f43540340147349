"""The answer normalisation of the official VQA scorer (github.com/GT-Vision-Lab/VQA, vqaEval.py), slips included.

A score can be set beside a published one only if answers are compared as the public scorer compares them, and a list
of answers only if they are counted alike. So the scorer's oddities are kept; each function names its own. This module
is read by the metrics and by the converter that makes the list.
"""

from __future__ import annotations

import re
from functools import lru_cache

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'  # neither the colon, nor the apostrophe, nor the full stop
MAX_PERIODS = 32  # the scorer passes the flag re.UNICODE, which is 32, where `re.sub` expects a count
NUMBERS = {
    word: str(number)
    for number, word in enumerate("zero one two three four five six seven eight nine ten".split())  # noqa: SIM905
} | {"none": "0"}
ARTICLES = frozenset({"a", "an", "the"})

_DIGIT_COMMA = re.compile(r"\d,\d")
# The scorer also asks, by a lookbehind misspelt as (?!<=\d), that no "<=" and digit follow: a period never fails that.
_PERIOD = re.compile(r"\.(?!\d)")

# What the scorer writes for what it finds. It lacks others ("hell", "shell", "wed", "id", "were" are words of their
# own), and it holds some that change nothing ("let's"), that no answer can meet, as words are in lower case by then
# ("Im", "Ive"), and that take an apostrophe away ("somebody'd").
_CONTRACTIONS = """
aint ain't  arent aren't  cant can't  couldve could've  couldnt couldn't  couldn'tve couldn't've  couldnt've couldn't've
didnt didn't  doesnt doesn't  dont don't  hadnt hadn't  hadnt've hadn't've  hadn'tve hadn't've  hasnt hasn't
havent haven't  hed he'd  hed've he'd've  he'dve he'd've  hes he's  howd how'd  howll how'll  hows how's
Id've I'd've  I'dve I'd've  Im I'm  Ive I've  isnt isn't  itd it'd  itd've it'd've  it'dve it'd've  itll it'll
let's let's  maam ma'am  mightnt mightn't  mightnt've mightn't've  mightn'tve mightn't've  mightve might've
mustnt mustn't  mustve must've  neednt needn't  notve not've  oclock o'clock  oughtnt oughtn't
ow's'at 'ow's'at  'ows'at 'ow's'at  'ow'sat 'ow's'at  shant shan't  shed've she'd've  she'dve she'd've  she's she's
shouldve should've  shouldnt shouldn't  shouldnt've shouldn't've  shouldn'tve shouldn't've
somebody'd somebodyd  somebodyd've somebody'd've  somebody'dve somebody'd've  somebodyll somebody'll
somebodys somebody's  someoned someone'd  someoned've someone'd've  someone'dve someone'd've  someonell someone'll
someones someone's  somethingd something'd  somethingd've something'd've  something'dve something'd've
somethingll something'll  thats that's  thered there'd  thered've there'd've  there'dve there'd've  therere there're
theres there's  theyd they'd  theyd've they'd've  they'dve they'd've  theyll they'll  theyre they're  theyve they've
twas 'twas  wasnt wasn't  wed've we'd've  we'dve we'd've  weve we've  werent weren't  whatll what'll  whatre what're
whats what's  whatve what've  whens when's  whered where'd  wheres where's  whereve where've  whod who'd
whod've who'd've  who'dve who'd've  wholl who'll  whos who's  whove who've  whyll why'll  whyre why're  whys why's
wont won't  wouldve would've  wouldnt wouldn't  wouldnt've wouldn't've  wouldn'tve wouldn't've  yall y'all
yall'll y'all'll  y'allll y'all'll  yall'd've y'all'd've  y'alld've y'all'd've  y'all'dve y'all'd've  youd you'd
youd've you'd've  you'dve you'd've  youll you'll  youre you're  youve you've
"""
_WORDS = _CONTRACTIONS.split()
CONTRACTIONS = dict(zip(_WORDS[::2], _WORDS[1::2], strict=True))


def strip_answer(answer: str) -> str:
    """Turn line breaks and tabs into spaces and trim; done to every answer, whatever the others are."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def process_punctuation(answer: str) -> str:
    """Take punctuation marks out or turn them into spaces.

    A mark is taken out everywhere if it stands next to a space anywhere in the answer ("red, blue"), and every mark is
    if a comma stands between two digits anywhere ("1,000-dollar" becomes "1000dollar"); otherwise it becomes a space
    ("red/blue"). What counts is the answer as it came, not what earlier marks left of it. Of the periods that no digit
    follows, the first 32 are taken out; "3." loses its period, "3.5" and ".5" keep it.
    """
    has_digit_comma = _DIGIT_COMMA.search(answer) is not None
    processed = answer
    for mark in PUNCTUATION:
        beside_space = mark + " " in answer or " " + mark in answer
        processed = processed.replace(mark, "" if beside_space or has_digit_comma else " ")
    return _PERIOD.sub("", processed, count=MAX_PERIODS)


def process_words(answer: str) -> str:
    """Write number words as digits, drop articles, put apostrophes into contractions; lower case, single spaces."""
    numbered = [NUMBERS.get(word, word) for word in answer.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in numbered if word not in ARTICLES)


@lru_cache(maxsize=2**16)  # the ten answers to a question, and those to the next, are few different ones
def normalise(answer: str) -> str:
    """Normalise an answer as the official scorer does where the annotators disagree."""
    return process_words(process_punctuation(strip_answer(answer)))
