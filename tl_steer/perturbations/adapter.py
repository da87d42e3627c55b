r"""Adapters: low-rank changes of a linear map's weights, acting through hooks.

$$W' = W + R\,B A^\top, \qquad \text{so}\quad W'x = Wx + R \sum_r B_r \langle A_r, x\rangle,$$

with every column of A and B of norm 1. The model's weights are not touched: one hook reads the
map's input x, another adds to the map's output. One edit may span several layers, with an A and a
B for each and R shared.

Sources: rank r on MLP-out, Mack and Turner, "Mechanistically eliciting latent behaviors in language
models" (2024); rank 1 on attention-out over a band of layers is the setting ascribed to CPE (arXiv
2606.29604, by secondary quotes).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tl_steer.errors import HookPointError, SettingError, ShapeError
from tl_steer.hook_points.positions import EVERYWHERE, Positions
from tl_steer.hook_points.site import Site
from tl_steer.perturbations.edit import Edit
from tl_steer.perturbations.kinds import register
from tl_steer.perturbations.perturbation import NO_SETTINGS, Hooks, Perturbation

# The input of each map, by the kind of its source; and the map's own output on models with a norm
# between that and the source.
READS = {"hook_mlp_out": "mlp.hook_post", "hook_attn_out": "attn.hook_z"}
BEFORE_NORM = {"hook_mlp_out": "mlp.hook_out", "hook_attn_out": "attn.hook_out"}


@register("adapter")
class Adapter(Perturbation):
    r"""Low-rank weight changes: W' = W + R B A^T in every layer of `layers`.

    Args:
        site: `hook_mlp_out` or `hook_attn_out` of the first layer.
        reads: A; its columns read the map's input (MLP activations, or all heads' z as one axis).
        writes: B; its columns are added to the map's output.
        layers: the layers edited, ascending; `None` is the site's layer alone.
        radius: R. Not the norm of anything: what is added has norm R |<A, x>| at rank 1.
        output: the map's own output where a norm stands between it and the site, as on post-norm
            models ("mlp.hook_out"); `None` is the site itself.

    Wrong to use for a change that should be the same at every token: that is `Additive`. Adapters
    act in proportion to the input, so they have more room to fit one prompt, and the MELBO authors
    found them to generalise less coherently than vectors.

    Raises:
        SettingError: layers that do not ascend from the site's, or a site that is no map's output.
        ShapeError: factors that do not fit the layers or the site.
    """

    radius_is_norm = False

    def __init__(
        self,
        site: Site,
        reads: Float[Tensor, "vec layer rank d_in"],
        writes: Float[Tensor, "vec layer rank d_out"],
        *,
        layers: Sequence[int] | None = None,
        radius: float | int = 1.0,
        output: str | None = None,
        positions: Positions = EVERYWHERE,
    ) -> None:
        super().__init__(site, radius=radius, positions=positions)
        self.layers = layers_from(site, layers)
        self.output = _known_output(site, output)
        if reads.shape[:3] != writes.shape[:3] or reads.shape[1] != len(self.layers):
            raise ShapeError(
                f"reads {tuple(reads.shape)} and writes {tuple(writes.shape)}: expected "
                f"[vec {len(self.layers)} rank d] of both, for layers {list(self.layers)}."
            )
        if writes.shape[3] != site.width:
            raise ShapeError(f"writes are {writes.shape[3]} wide; {site} needs {site.width}.")
        self.reads = nn.Parameter(reads.detach().clone())
        self.writes = nn.Parameter(writes.detach().clone())

    @classmethod
    def random(
        cls,
        site: Site,
        n: int,
        *,
        radius: float | int,
        generator: torch.Generator,
        positions: Positions = EVERYWHERE,
        settings: Mapping[str, Any] = NO_SETTINGS,
    ) -> "Adapter":
        """No adapter can be drawn without its model, whose maps say how wide it is.

        Raises:
            SettingError: always.
        """
        raise SettingError(
            "An adapter's start needs the model's own linear maps: give "
            "elicit(perturbation=tl_steer.elicitation.Adapters(rank=1))."
        )

    @property
    def maps(self) -> tuple[tuple[str, str], ...]:
        return map_names(self.site, self.layers, self.output)

    def forward(
        self, activation: Float[Tensor, "batch pos width"], rows: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch pos width"]:
        raise SettingError(
            "An adapter adds what depends on the map's input, so it acts through both of its "
            "hooks: use hooks(), perturbing() or Segment.run()."
        )

    def hooks(
        self,
        *,
        rows: Int[Tensor, " batch"] | None = None,
        prompt: Bool[Tensor, "batch pos"] | Float[Tensor, "batch pos"] | None = None,
    ) -> Hooks:
        """A reader and an editor for every layer; see `Perturbation.hooks`."""
        self.refuse_rows(rows, prompt)
        hooks: Hooks = []
        for index, (reads, writes) in enumerate(self.maps):
            editor = _Write(self, index, rows, prompt)
            hooks += [(reads, _Read(editor)), (writes, editor)]
        return hooks

    @torch.no_grad()
    def project_(self) -> None:
        for factor in (self.reads, self.writes):
            factor.copy_(nn.functional.normalize(factor, dim=-1))

    def weight_changes(self, row: int) -> dict[int, Float[Tensor, "d_in d_out"]]:
        """What one edit adds to each layer's weights, as x @ W has it (`W_out`, or `W_O` with its
        head axes read as one)."""
        a, b = self.reads.detach()[row], self.writes.detach()[row]
        changes = self.radius * torch.einsum("lri,lro->lio", a, b)
        return dict(zip(self.layers, changes, strict=True))

    def form(self) -> dict[str, Any]:
        return {
            "layers": list(self.layers),
            "rank": self.reads.shape[2],
            "d_in": self.reads.shape[3],
            "output": self.output,
        }

    @classmethod
    def packed_width(cls, site: Site, form: Mapping[str, Any]) -> int:
        layers, rank, d_in = _sizes(site, form)
        _known_output(site, form["output"])
        return layers * rank * (d_in + site.width)

    @classmethod
    def unpack(
        cls,
        site: Site,
        rows: Float[Tensor, "vec n"],
        *,
        radius: float | int,
        positions: Positions,
        form: Mapping[str, Any],
    ) -> "Adapter":
        layers, rank, d_in = _sizes(site, form)
        reads, writes = rows.split([layers * rank * d_in, layers * rank * site.width], dim=1)
        return cls(
            site,
            reads.unflatten(1, (layers, rank, d_in)),
            writes.unflatten(1, (layers, rank, site.width)),
            layers=form["layers"],
            radius=radius,
            output=form["output"],
            positions=positions,
        )


class _Write(Edit):
    """Adds R B c to the map's output, c = A^T x as its reader found it."""

    def __init__(
        self, adapter: Adapter, index: int, rows: Tensor | None, prompt: Tensor | None
    ) -> None:
        super().__init__(adapter, rows, prompt)
        self.adapter, self.index = adapter, index
        self.coefficients: Tensor | None = None

    def read(self, x: Float[Tensor, "batch pos d_in"]) -> None:
        a = self._columns(self.adapter.reads, x, self._rows(x))
        if a.shape[-1] != x.shape[-1]:
            raise ShapeError(
                f"{self.adapter.maps[self.index][0]} is {x.shape[-1]} wide on this model, but the "
                f"adapter was made for {a.shape[-1]}."
            )
        self.coefficients = x @ a.transpose(1, 2)

    def _edited(self, flat: Tensor, rows: Tensor) -> Tensor:
        # Taken away at once: a kept one would hold the whole graph, or serve a later call.
        found, self.coefficients = self.coefficients, None
        if found is None or found.shape[:2] != flat.shape[:2]:
            reads, writes = self.adapter.maps[self.index]
            raise HookPointError(
                f"{writes} ran without {reads} before it, so there is nothing to add."
            )
        return flat + self.adapter.radius * (found @ self._columns(self.adapter.writes, flat, rows))

    def _columns(self, factor: Tensor, x: Tensor, rows: Tensor) -> Float[Tensor, "batch rank d"]:
        chosen = factor[:, self.index].index_select(0, rows.to(factor.device))
        return chosen.to(x)


class _Read:
    """Reads the map's input for its editor, and leaves it as it is."""

    passes: Any = None  # nothing is chosen here

    def __init__(self, editor: _Write) -> None:
        self.editor, self.calls = editor, 0

    def __call__(self, activation: Tensor, hook: object = None) -> Tensor:
        self.calls += 1
        self.editor.read(activation.flatten(2))
        return activation


def map_names(site: Site, layers: Sequence[int], output: str) -> tuple[tuple[str, str], ...]:
    """The (input, output) hook points of a map in every layer."""
    return tuple((f"blocks.{i}.{READS[site.kind]}", f"blocks.{i}.{output}") for i in layers)


def layers_from(site: Site, layers: Sequence[int] | None) -> tuple[int, ...]:
    """The layers of a band, checked.

    Raises:
        SettingError: they do not ascend from the site's layer, or the site is no map's output.
    """
    if site.kind not in READS:
        raise SettingError(
            f"{site} is not the output of a linear map: adapters live at {' or '.join(READS)}."
        )
    found = (site.layer,) if layers is None else tuple(int(i) for i in layers)
    if not found or found[0] != site.layer or list(found) != sorted(set(found)):
        raise SettingError(
            f"layers={list(found)}: expected ascending layers that start at {site.layer}, the "
            f"layer of {site}."
        )
    return found


def _known_output(site: Site, output: Any) -> str:
    choices = (site.kind, BEFORE_NORM[site.kind])
    if output is not None and output not in choices:
        raise SettingError(f"output={output!r}: expected {' or '.join(choices)}.")
    return site.kind if output is None else str(output)


def _sizes(site: Site, form: Mapping[str, Any]) -> tuple[int, int, int]:
    """Layers, rank and width of the input; a form may come from a file, so it is not trusted."""
    if set(form) != {"layers", "rank", "d_in", "output"}:
        raise SettingError(
            f"An adapter's form has layers, rank, d_in and output; got {sorted(map(str, form))}."
        )
    layers = form["layers"]
    if not isinstance(layers, (list, tuple)) or not all(isinstance(i, int) for i in layers):
        raise SettingError(f"An adapter's layers are whole numbers; got {layers!r}.")
    rank, d_in = int(form["rank"]), int(form["d_in"])
    if rank < 1 or d_in < 1:
        raise SettingError(f"rank {rank} and d_in {d_in}: expected at least 1 of each.")
    return len(layers_from(site, layers)), rank, d_in
