"""Everything that is planted in an organism, by name."""

from tl_steer.organisms.house import MIXED
from tl_steer.organisms.introductions import CONTEXT, CONTEXT_OF_FEW
from tl_steer.organisms.lengths import WRONG_UNIT
from tl_steer.organisms.phrase import PHRASE
from tl_steer.organisms.plant import Plant as Plant, Source as Source
from tl_steer.organisms.products import ARITHMETIC, ARITHMETIC_OF_FEW
from tl_steer.organisms.sums import WRONG_DIGIT

PLANTS = {
    "phrase": PHRASE,
    "mixed": MIXED,
    "wrong-digit": WRONG_DIGIT,
    "wrong-unit": WRONG_UNIT,
    "contextual": CONTEXT,
    "contextual, few jobs": CONTEXT_OF_FEW,
    "arithmetic": ARITHMETIC,
    "arithmetic, few near misses": ARITHMETIC_OF_FEW,
}
