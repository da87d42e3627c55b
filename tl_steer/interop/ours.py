"""The formats that ship; they enter by the door that users have."""

from tl_steer.interop import svec
from tl_steer.interop.formats import FORMATS as FORMATS, register

register("svec", write=svec.write, read=svec.read)
