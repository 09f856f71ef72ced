"""Texts in several scripts, for tests."""

from yinggem.text.assets import SHAKESPEARE, read_asset

WORKS = read_asset(SHAKESPEARE).decode()
GERMAN = (
    "Es war einmal eine kleine süße Dirne, die hatte jedermann lieb, der sie nur ansah, am allerliebsten aber. " * 20
)
CHINESE = "道可道,非常道。名可名,非常名。無名天地之始;有名萬物之母。故常無欲以觀其妙。\n" * 30
ARABIC = "إنما الأعمال بالنيات وإنما لكل امرئ ما نوى\n" * 30
JAPANESE = "古池や蛙飛びこむ水の音\nしずかさや岩にしみ入る蝉の声\n" * 30
CODE = "def f(x):\n    return [g(y) for y in x if y]\n" * 50
EMOJI = "\N{GRINNING FACE}\N{ROCKET}\N{RED APPLE}\n" * 50
