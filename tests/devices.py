"""Stand-ins for devices, where a machine has none: every tensor is said to lie on one, and what
would fail on a real machine with several fails here.

Inside `Devices()`, `.to`, factories and `.device` speak of stand-ins, while all numbers stay on the
CPU. An operation on tensors of two devices raises as PyTorch does; so does reading a stand-in's
memory. A result lies where its arguments do. Known by their storage, so that views, parameters and
`detach` need no help.
"""

import functools

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_leaves

CPU = torch.device("cpu")
MOVES = {"to", "cpu", "as_tensor", "asarray", "tensor"}
# What PyTorch allows between devices: copies, and reading from the other side.
BETWEEN = {"copy_", "__set__", "type_as", "_has_compatible_shallow_copy_type"}


class Devices(TorchFunctionMode):
    """See the module; `place(module, device)` puts a module somewhere."""

    def __init__(self):
        super().__init__()
        self.places = {}

    def place(self, module, device):
        for values in [*module.parameters(), *module.buffers()]:
            self._put(values, torch.device(device))

    def where(self, values):
        held = self.places.get(values.untyped_storage()._cdata)
        return CPU if held is None else held[1]

    def _put(self, values, device):
        storage = values.untyped_storage()
        # The weak reference keeps the number from being given to another storage.
        self.places[storage._cdata] = (StorageWeakRef(storage), device)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        with torch._C.DisableTorchFunction():
            name = (resolve_name(function) or getattr(function, "__name__", "")).split(".")
            if name[-2:] == ["device", "__get__"]:
                return self.where(args[0])
            if name[-2:] == ["grad", "__get__"]:
                return self._put_all(function(*args, **kwargs), self.where(args[0]))
            if function is torch.autograd.grad:
                return self._gradients(*args, **kwargs)
            if name[-1] == "__get__":
                return function(*args, **kwargs)
            return self._called(function, name[-1], args, kwargs)

    def _gradients(self, outputs, inputs, *args, **kwargs):
        found = torch.autograd.grad(outputs, inputs, *args, **kwargs)
        for one, own in zip(found, tree_leaves(inputs), strict=True):
            self._put_all(one, self.where(own))
        return found

    def _called(self, function, name, args, kwargs):
        asked, args, kwargs = self._asked(name, args, kwargs)
        known = [v for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor)]
        places = {self.where(v) for v in known if v.ndim or self.where(v) != CPU}
        if name in ("__getitem__", "index_put_", "__setitem__"):
            places -= {CPU} if len(places) > 1 and self.where(args[0]) != CPU else set()
        if name not in BETWEEN | MOVES and len(places) > 1:
            shapes = [(tuple(v.shape), str(self.where(v))) for v in known]
            raise RuntimeError(f"Expected all tensors to be on the same device: {name} {shapes}")
        if name in ("numpy", "__array__") and places - {CPU}:
            raise TypeError("can't convert a stand-in's tensor to numpy; copy it to the CPU first")
        out = function(*args, **kwargs)
        here = next(iter(places), CPU) if name not in BETWEEN else self.where(args[0])
        if asked is None:
            return self._put_all(out, here)
        if name in MOVES and known and asked != self.where(known[0]):
            out = out.view_as(out).clone() if out is known[0] else out
            out = out.clone() if out.untyped_storage()._cdata in self.places else out
        return self._put_all(out, asked)

    def _asked(self, name, args, kwargs):
        """The device that a call names, and its arguments with the CPU in its place."""
        named = kwargs.get("device")
        if named is not None:
            return torch.device(named), args, kwargs | {"device": CPU}
        if name == "cpu":
            return CPU, args, kwargs
        if name != "to":
            return None, args, kwargs
        for i, value in enumerate(args[1:], 1):
            if isinstance(value, Tensor):
                rest = (CPU, value.dtype)
                return self.where(value), (*args[:i], *rest, *args[i + 1 :]), kwargs
            if isinstance(value, (torch.device, str)):
                return torch.device(value), (*args[:i], CPU, *args[i + 1 :]), kwargs
        return None, args, kwargs

    def _put_all(self, out, device):
        for values in tree_leaves(out):
            if isinstance(values, Tensor) and (
                device != CPU or values.untyped_storage()._cdata in self.places
            ):
                self._put(values, device)
        return out


def spread(devices, model, of_layer):
    """A bridge over devices: block i on `of_layer(i)`, the embedding with the first, the rest with
    the last; every part fetches what it is called with, as accelerate's hooks make it do."""
    first, last = of_layer(0), of_layer(len(model.blocks) - 1)
    inner = model.original_model.model
    devices.place(model, last)
    devices.place(inner.embed_tokens, first)
    devices.place(inner.rotary_emb, first)
    for part in (inner.embed_tokens, inner.rotary_emb):
        fetching(part, first)
    for i, layer in enumerate(inner.layers):
        devices.place(layer, of_layer(i))
        fetching(layer, of_layer(i))
    for part in (inner.norm, model.original_model.lm_head):
        fetching(part, last)


def fetching(module, device):
    # A bridge's part hands what is set on it to the module inside, and so calls itself.
    module = getattr(module, "original_component", None) or module
    inner = module.forward

    @functools.wraps(inner)
    def forward(*args, **kwargs):
        args, kwargs = torch.utils._pytree.tree_map(
            lambda v: v.to(device) if isinstance(v, Tensor) else v, (args, kwargs)
        )
        return inner(*args, **kwargs)

    module.forward = forward
