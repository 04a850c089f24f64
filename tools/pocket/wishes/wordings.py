"""Wordings of wishes. `/` separates wordings; ``(a|b)`` stands for a or b.

Held-out wordings are never used for training, but each of their words is.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import product

# Kind of wish -> wordings for training, held-out wordings.
WORDS: dict[str, tuple[str, str]] = {
    # The image decides which edit is meant.
    "hours_passed": (
        "it should look as if (hours|many hours) had passed / "
        "show (it|this|the same place) (hours|many hours) later / let (some|many) hours go by / "
        "it is much later (now|today) / the day (has gone|went) on / "
        "how does (it|this place) look later in the day",
        "show how it looks many hours later in the day / let the day go on for some hours",
    ),
    "odd_one": (
        "make the odd one match / the odd one out should (match|fit in) / "
        "one of them does not (match|fit|belong) / (all|all three) of them should (match|be alike) / "
        "one (is not|looks not) like the others / let the odd one be like the others",
        "the one that is not like the others should fit in / make all three alike",
    ),
    "matching_pair": (
        "make them a (matching|perfect) pair / "
        "(the small one|the little one) should be like (the big one|its big friend) / "
        "the small one wants to look like the big one / the two should (match|be alike|be a pair) / "
        "let the little one match the big one",
        "the little one wants to match its big friend / let the two be a matching pair",
    ),
    "freezing": (
        "it is (freezing|bitter cold|very cold) (outside|in here|today) / winter (has come|is here) / "
        "(everyone|everything) is freezing / the heating is broken and it is winter / "
        "it feels like the north pole (here|today)",
        "it is winter and everything is freezing / today it feels very cold here",
    ),
    "right_light": (
        "the light is (wrong|not right) / get the light right / "
        "whoever took this did not (look at|care about) the light / the exposure is (off|wrong) / "
        "mend the (light|exposure) / the camera got the (light|exposure) wrong",
        "the camera did not get the light right / mend the wrong exposure",
    ),
    "white_balance": (
        "the white balance is (off|wrong) / white should (be|look) white (here|again) / "
        "there is a cast over the (colors|picture) / get rid of the cast / mend the white balance / "
        "the camera got the colors wrong",
        "the camera got the white balance wrong / mend the cast over the colors",
    ),
    "weather_fits": (
        "let the weather (fit|suit|match) the (ground|place) / "
        "give (it|this place) the weather that (fits|suits) the ground / "
        "the weather should go with the ground / what weather would (suit|fit) this (place|ground)",
        "what weather would go with the ground / the weather should suit this place",
    ),
    "stand_out": (
        "it should stand out (more|much more) / make it (easier|easy) to see / "
        "it is hard to (see|tell) from what is behind it / "
        "(nobody|no one) can tell it from what is behind it / let it stand out from what is behind",
        "it is not easy to tell from what is behind it / make it stand out much more",
    ),
    "hide": (
        "it should disappear from the eye / (hide it|let it hide) in its place / "
        "it wants to (hide|be hidden) / (nobody|no one) should see it any more / "
        "it wants to look like what is behind it / let it (disappear|melt) into what is behind it",
        "it wants to disappear from the eye / let it melt into its place",
    ),
    "framed": (
        "frame it in its own color / the frame should (match|go with|suit) it / "
        "hang it in a frame that (matches|suits) it / find a frame of the same color for it",
        "hang it in a frame of its own color / the frame should be of the same color as it",
    ),
    "take_on": (
        "let (everything|the whole picture) take on its color / its color should (fill|cover) everything / "
        "see it through glass of its own color / the whole picture should be (steeped|bathed) in its color",
        "let its color cover the whole picture / see everything through glass of its color",
    ),
    "traffic_light": (
        "it is a traffic light and it has (changed|switched) / the traffic light (changes|switches) now / "
        "like a traffic light it (changes|switches) now / think of a traffic light and go one step on",
        "it is a traffic light, go one step on / now the traffic light has changed",
    ),
    "other_temper": (
        "give it the opposite temper / if it is hot (let it be|make it) cold, if cold, hot / "
        "it should feel the other way round / turn its temper round / swap hot and cold for it",
        "swap its temper, let cold be hot and hot cold / let it be of the opposite temper",
    ),
    "forgot_hat": (
        "one of them forgot its hat / they should both wear (hats|a hat) / "
        "the other one wants (a hat|the same hat) too / only one has something on its head / "
        "where is the hat of the other one",
        "the other one forgot its hat / they should both wear the same hat",
    ),
    "cannot_see": (
        "one of them cannot see (anything|a thing) / the blind one wants to see / "
        "both should be able to see / only one of them can see / let the other one see too",
        "the blind one cannot see a thing / let both of them see",
    ),
    "dressed_alike": (
        "they should be dressed alike / (both|the two) should wear the same (pattern|dress) / "
        "one wears a pattern, the other wants it too / dress (the other one|the plain one) the same way / "
        "the plain one wants such a dress too",
        "the plain one should wear the same pattern / dress both of them alike",
    ),
    "equal_sizes": (
        "they should be (the same size|of one size|equally big) / one has grown too much / "
        "bring them to the same size / the big one should not be bigger than the other / "
        "(neither|none) should be bigger",
        "one has grown bigger than the other, it should not / bring both to one size",
    ),
    "too_crowded": (
        "it is too crowded (here|in here) / there is no room for the (smallest|little) one / "
        "three is (a crowd|one too many) / the (smallest|little) one goes home / "
        "two are enough, let the smallest go",
        "three is too crowded, the little one goes / there is no room for three",
    ),
    "company": (
        "there is nobody to keep it company / it is (lonely|all alone) / "
        "it wants a (twin|friend just like it) / it should not be (alone|lonely) / if only it had a twin",
        "it is lonely and wants a twin / there is no friend to keep it company",
    ),
    "mend": (
        "something is wrong with this picture, mend it / "
        "(mend|repair|fix) (this picture|this photo|what is wrong) / this photo went wrong / "
        "a (good|better) camera would not have done this / make it look as it should",
        "fix this photo, something went wrong / repair what is wrong with this picture",
    ),
    "cheer_up": (
        "cheer the sad one up / one of them is not (happy|in a good mood) / both should be happy / "
        "only one of them is in a good mood / tell the other one a joke",
        "one of them is sad, cheer it up / let both be in a good mood",
    ),
    # The words mean the same edit in every scene.
    "sun_on_head": (
        "the sun should burn on its head / it wants to get (a tan|some sun) / "
        "it needs (sunlight|something warm) from above / a clear day at noon",
        "it wants a clear day and some sunlight / the sun should burn from above",
    ),
    "old_album": (
        "as in (grandma's|my grandma's) album / taken a hundred years ago / "
        "it should look as old as (the hills|grandma) / a photo from the (old days|year 1900)",
        "a photo from grandma's old days / as taken in the year 1900",
    ),
    "before_colour": (
        "as before color film was (known|invented) / show what a (dog|camera without color) sees / "
        "take all (hue|color) out of life / as the first television showed it",
        "as a camera showed it before color was known / take all color out of it as in the first film",
    ),
    "umbrella": (
        "they need an umbrella (now|today) / take your umbrella with you / it is pouring down / "
        "everything gets (wet|soaking wet) / the garden needs water",
        "it is pouring, take an umbrella / the garden gets wet today",
    ),
    "lost_glasses": (
        "I lost my (glasses|spectacles) and see it so / as (seen|one sees it) without glasses / "
        "my eyes are (tired|bad) and see nothing sharp / the lens was not in focus",
        "my eyes see nothing sharp without glasses / I see it as my lens was not in focus",
    ),
    "pencil_only": (
        "an artist drew it with only a pencil / all I have is (paper and a pencil|a pencil) / "
        "as on the first page of an artist's (book|notebook) / thin lines on paper are enough",
        "drew with a pencil in my notebook / an artist has only paper and lines",
    ),
    "burnt_wood": (
        "drawn with burnt wood / all she had was a piece of (coal|burnt wood) / "
        "as an artist draws with coal / rub it on paper with (soot|coal)",
        "an artist drawn to coal and paper did it / all I had was soot",
    ),
    "old_game": (
        "like in an old (computer|video) game / as my first computer showed it / (eight|8) bit only / "
        "each (dot|block) should be (large|big) enough to count",
        "as a video game on my first computer / each block large enough to count, as in an old game",
    ),
    "tunnel": (
        "as (looking|seen) through a tunnel / lead the eye to the (middle|center) / "
        "all light should be in the middle / look at it through a (tube|keyhole)",
        "lead the eye through a tunnel to the middle / as seen through a keyhole",
    ),
    "undeveloped": (
        "the film was never developed / light should be dark and dark be light / "
        "as on the strip of film itself / show it as an x-ray (would|does)",
        "as it looks on film that was never developed / dark should be light and light dark",
    ),
    "lost_in_haze": (
        "you cannot see your hand before your (eyes|face) / the ship's horn is (blown|heard) all day / "
        "it is lost in a haze / drivers should go slowly, they see little",
        "the horn is heard, they see little in the haze / you cannot see a hand before your face in the haze",
    ),
    "day_ends": (
        "lovers watch the day end / the sky (burns|glows) as the day ends / "
        "the evening is (golden|glowing) / the last light of the day is best",
        "lovers watch the last light of the day / the evening sky glows",
    ),
    "bedtime": (
        "all of them went to bed / it is bedtime (now|for all) / only the moon is awake / "
        "the stars will soon come out / everyone is asleep",
        "only the moon is awake, all went to bed / soon all of them are asleep",
    ),
    "left_in_window": (
        "it was left in the window for years / washed (too often|a hundred times) / "
        "the sun has bleached the (poster|picture) / the colors are tired",
        "the picture is bleached, it was left in the sun for years / "
        "the colors are washed, it was in the window too often",
    ),
    "candy_shop": (
        "as loud as a candy shop / the colors should (shout|sing) / it should look like candy / "
        "it is far too dull for a party",
        "it should be as loud as a party / the colors should look like in a candy shop",
    ),
    "few_inks": (
        "the printer had only a few inks / as printed (by hand|with few inks) / "
        "count the inks on one hand / like a print on a cheap shirt",
        "as printed on a shirt with only a few inks / the cheap printer had few inks",
    ),
    "fireside": (
        "as seen by (the fireside|candle light) / light a fire in here / it should feel (cosy|like home) / "
        "as under an old lamp",
        "as by an old lamp at the fireside / light a candle, it should feel cosy",
    ),
    "under_water": (
        "as a diver sees it / deep under (water|the sea) / let the sea rise over it / "
        "fish swim by (here|around it)",
        "as fish see it under the sea / a diver deep under the water sees it",
    ),
    "ate_too_much": (
        "it ate too much / it has grown (over the years|a lot) / it should take more room / "
        "it wants to be seen from afar / blow it up",
        "it has grown a lot and should take more room / it ate a lot over the years",
    ),
    "washed_hot": (
        "it was washed too hot / it is far too (proud|full of itself) / it lost a lot of weight / "
        "it moved far away from us / let some air out of it",
        "it was far too hot and lost some air / it has moved away a lot",
    ),
    "joke": (
        "somebody told it a joke / it heard good news / it had a (good|wonderful) day / "
        "show that it is happy / it just fell in love",
        "it heard a good joke / somebody told it good news and it is happy",
    ),
    "gallery": (
        "it should hang in (a gallery|a museum) / ready for the living room wall / put it up on the wall / "
        "give it a wooden edge",
        "hang it up in the living room / it should be on the wall of a museum",
    ),
}


def _expand(wording: str) -> list[str]:
    parts = [part.split("|") for part in re.split(r"[()]", wording)]
    return [" ".join("".join(choice).split()) for choice in product(*parts)]


@cache
def wordings(kind: str, held_out: bool = False) -> tuple[tuple[str, ...], ...]:
    """Returns the wordings of a kind, each with all its variants. Raises KeyError for an unknown kind."""
    return tuple(tuple(_expand(wording)) for wording in WORDS[kind][held_out].split(" / "))


def every_wording(held_out: bool = False) -> list[str]:
    """Returns all variants of all wordings of all kinds."""
    return [variant for kind in WORDS for group in wordings(kind, held_out) for variant in group]
