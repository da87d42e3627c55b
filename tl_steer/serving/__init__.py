"""The live page: the report with a model behind it, served to this machine alone.

One worker owns the model; a small server hands it what the page asks for, and texts back as they
are generated. Imports `views` and what lies below.
"""

from tl_steer.serving.serve import serve as serve
from tl_steer.serving.served import Served as Served
