"""What a save will write, known before it writes anything: every file, which tensor lies in which, the small files, the manifest."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import xxhash

from mfconv_nb.core.checkpoint import HF, MF, Checkpoint, LazyTensor, Original, TensorSpec, place_of, sources_of
from mfconv_nb.core.dtypes import dtype_after_cast
from mfconv_nb.core.errors import MappingError, quote
from mfconv_nb.core.file_plan import FilePlan, OutputPlan
from mfconv_nb.core.paths import local_path
from mfconv_nb.core.report import how_many
from mfconv_nb.core.run_yaml import Lora
from mfconv_nb.core.sizes import RUN_CONFIG
from mfconv_nb.core.sources import ByteSource
from mfconv_nb.families.registry import conv1d_layers
from mfconv_nb.formats import peft_folder, safetensors_file
from mfconv_nb.formats.adapters_of_a_run import RUN_CONFIG_OF_ADAPTERS, adapter_config_of_run_bytes, adapters_of_run_bytes
from mfconv_nb.formats.assets import code_files_named_in, config_bytes, read_assets
from mfconv_nb.formats.writing import is_folder, plan_output
from mfconv_nb.mapping.adapters import HINT_ALPHA, adapters_of, is_adapter, rank_of
from mfconv_nb.mapping.plan import MappingPlan, Row
from mfconv_nb.mapping.quantised import FP8, claimed_scheme, codes_among
from mfconv_nb.steps.converting.mapped_checkpoint import MappedCheckpoint, carried_by, plan_of
from mfconv_nb.steps.saving.codes import DequantisedReport
from mfconv_nb.steps.saving.true_config import true_config
from mfconv_nb.streaming.dequantised import is_dequantised
from mfconv_nb.streaming.fill import FillJob
from mfconv_nb.streaming.manifest import CARRIED, CODES
from mfconv_nb.streaming.staging import Staging


@dataclass(frozen=True)
class Output:
    """Files, and for each of them the tensor behind each of its names.

    Attributes:
        checkpoint: what is written.
        dtypes: the dtype that each tensor is written as.
        plan: every file.
        held: for each file of the plan the tensors in it. Those of the checkpoint, or slices of them.
        offsets: for each file where the slices in it begin in their whole tensors; empty where tensors are written whole.
        notes: what a reader should know of the small files.
        exact: of tensors that are computed from codes, whether their scales say that nothing is rounded.
        kept: scales, and what else the way back to codes needs; they lie in the side folder.
        origins: of tensors that no single mapping made, how they came about: entries of the manifest.
        left_out: names that the source has and no file gets, and why; beside those that a mapping leaves out.
        back: what going back would lack, where that is known; empty where it is to be planned.
    """

    checkpoint: Checkpoint
    dtypes: Mapping[str, str]
    plan: OutputPlan
    held: tuple[Mapping[str, LazyTensor], ...]
    offsets: tuple[Mapping[str, tuple[int, ...]], ...] = field(default=())
    notes: tuple[str, ...] = ()
    exact: Mapping[str, bool] = field(default_factory=dict)
    kept: Mapping[str, LazyTensor] = field(default_factory=dict)
    origins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    back: str = ""

    @property
    def carried(self) -> Mapping[str, LazyTensor]:
        return carried_by(self.checkpoint)

    @cached_property
    def carried_plan(self) -> FilePlan:
        return safetensors_file.plan_file(CARRIED, tuple(t.spec for t in self.carried.values()), {})

    @cached_property
    def kept_plan(self) -> FilePlan:
        return safetensors_file.plan_file(CODES, tuple(t.spec for t in self.kept.values()), {})

    @property
    def casts(self) -> dict[tuple[str, str], int]:
        """Tensors by (dtype before, dtype after), where the two differ."""
        found: dict[tuple[str, str], int] = {}
        for tensor in self.checkpoint:
            key = (stored_dtype(tensor), self.dtypes[tensor.name])
            if key[0] != key[1]:
                found[key] = found.get(key, 0) + 1
        return found

    def jobs(self, staging: Staging) -> list[FillJob]:
        """The files to fill, in the staging folder."""
        jobs = [FillJob(f, staging.data / f.name, held, self.dtypes) for f, held in zip(self.plan.files, self.held, strict=True)]
        if self.carried:
            dtypes = {n: t.dtype for n, t in self.carried.items()}
            jobs.append(FillJob(self.carried_plan, staging.side / CARRIED, self.carried, dtypes))
        if self.kept:
            jobs.append(FillJob(self.kept_plan, staging.side / CODES, self.kept, {n: t.dtype for n, t in self.kept.items()}))
        return jobs

    def sources(self) -> list[ByteSource]:
        """Everything that is read, each once."""
        return list(sources_of((*self.checkpoint, *self.carried.values(), *self.kept.values())))

    def check_sources(self) -> None:
        """Raises InputError (MFC108) when a source has changed."""
        for source in self.sources():
            source.check_unchanged()

    def fingerprint(self) -> str:
        """What an earlier, unfinished run must share for its work to count: sources, pieces, dtypes, places, small files.

        A random word stands for a source that nothing can prove to be the same (an array, a Module, a Cell): its work never counts.
        Reading it again to compare would save no time.
        """
        digest, numbers = xxhash.xxh3_128(), dict[int, int]()
        for source in (p.source for t in self._written() for p in t.pieces):
            if id(source) not in numbers:
                numbers[id(source)] = len(numbers)
                digest.update(json.dumps([source.label, source.size, source.identity() or secrets.token_hex()]).encode())
        for plan in (*self.plan.files, self.carried_plan, self.kept_plan):
            digest.update(json.dumps((plan.name, plan.size, list(plan.places.items()))).encode())
            for _, data in plan.fixed:
                digest.update(data)
        digest.update(json.dumps([(name, xxhash.xxh3_128_hexdigest(data)) for name, data in self.plan.indexes.items()]).encode())
        for tensor in self._written():
            pieces = [(numbers[id(p.source)], *place_of(p)) for p in tensor.pieces]
            digest.update(json.dumps((tensor.name, self.dtypes.get(tensor.name), pieces)).encode())
        return digest.hexdigest()

    def _written(self) -> Iterable[LazyTensor]:
        for held in {id(held): held for held in self.held}.values():  # whole tensors: the same for every file
            yield from held.values()
        yield from self.carried.values()


def whole_output(
    checkpoint: Checkpoint,
    target: Path,
    dtype: str | None,
    max_shard_size: str | int | None,
    assets: str | Path | None,
    *,
    of_mindspore: bool = True,
) -> Output:
    """The output of a save that writes every tensor whole.

    Args:
        of_mindspore: whether what is MindFormers' has to be for MindSpore's own reader, which knows no fp8.
    """
    specs = output_specs(checkpoint, dtype)
    if checkpoint.side == HF and is_folder(target) and any(is_adapter(s.name) for s in specs):
        plan, extras = _adapter_folder(checkpoint, specs)
        notes: tuple[str, ...] = ()
    else:
        plan = plan_output(specs, target, checkpoint.side if of_mindspore else HF, max_shard_size)
        extras, notes = _extras(checkpoint, plan, specs, assets)
        extras |= configs_of_run_adapters(checkpoint, specs) if plan.folder and checkpoint.side == MF else {}
    plan = OutputPlan(plan.files, plan.folder, {**extras, **plan.indexes})
    return Output(checkpoint, {s.name: s.dtype for s in specs}, plan, (checkpoint.tensors,) * len(plan.files), notes=notes)


def output_specs(checkpoint: Checkpoint, dtype: str | None) -> tuple[TensorSpec, ...]:
    """Name, shape and dtype of every written tensor. ``dtype`` casts floating tensors, except those whose dtype the family fixes.

    Raises:
        MappingError: MFC312 with ``dtype`` where some numbers are fp8 or codes: they would silently stay what they are.
    """
    if dtype is not None:
        _check_castable(checkpoint)
    return tuple(_output_spec(s, None if s.name in checkpoint.history.fixed_dtypes else dtype) for s in checkpoint.specs)


def _check_castable(checkpoint: Checkpoint) -> None:
    history = checkpoint.history
    fp8 = next((s.name for s in checkpoint.specs if s.dtype in FP8 and s.name not in history.fixed_dtypes), None)
    codes = codes_among(checkpoint.specs, claimed_scheme(checkpoint.config) or history.quantised_by)
    if found := codes if fp8 is None else f"fp8 numbers: {quote(fp8)}":
        hint = "Without --dtype (dtype=) they stay as they are."
        raise MappingError("MFC312", checkpoint.origin, found=found, expected="tensors that become what --dtype says", hint=hint)


def _output_spec(spec: TensorSpec, dtype: str | None) -> TensorSpec:
    after = dtype_after_cast(spec.dtype, dtype)
    return spec if after == spec.dtype else TensorSpec(spec.name, spec.shape, after)


def stored_dtype(tensor: LazyTensor) -> str:
    """The dtype that a tensor's numbers have where they lie, whatever it is written as; of what is computed from codes, its own."""
    return tensor.pieces[0].dtype if tensor.pieces and not is_dequantised(tensor) else tensor.dtype


def _extras(
    checkpoint: Checkpoint, plan: OutputPlan, specs: tuple[TensorSpec, ...], assets: str | Path | None
) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """For a Hugging Face folder: config.json, true of what is written, and the tokenizer files from ``assets``; and notes on them."""
    if checkpoint.side != HF or not plan.folder:
        return {}, ()
    found = read_assets(local_path(assets)) if assets is not None else {}
    config = json.loads(found["config.json"]) if found else checkpoint.config
    if config is None or RUN_CONFIG in config:  # the sizes of a run's YAML are not the config of a model
        return {}, ()
    said, notes = true_config(config, checkpoint, specs, str(Path(assets or "") / "config.json"))
    same = found.get("config.json") if said == config else None
    files = {**found, "config.json": same or config_bytes(said)}
    if code := code_files_named_in(files):
        notes += (
            f"auto_map names code, which does not come along; from_pretrained needs it from the original's folder: {', '.join(code)}",
        )
    return files, notes


# ---- adapters --------------------------------------------------------------------------------------------------------------


def _adapter_folder(checkpoint: Checkpoint, specs: tuple[TensorSpec, ...]) -> tuple[OutputPlan, dict[str, bytes]]:
    """PEFT's folder: one file of adapters and their config. The rank is that of the tensors; alpha is what somebody said.

    Raises:
        MappingError: MFC319 for other tensors among them, several ranks, or no alpha.
    """
    others = [s.name for s in specs if not is_adapter(s.name)]
    if others:
        found = f"{how_many(len(others), 'tensor')} of the model beside adapters; first {others[0]!r}"
        hint = (
            "For the adapters: --only_adapters (mc.only_adapters in Python). For the model: "
            "--leave_out '*lora_*' (leave_out= in Python). "
            "For both in one: mfconv merge (mc.merge_adapters)."
        )
        expected = "adapters only, since a folder of Hugging Face holds adapters or a model"
        raise MappingError("MFC319", checkpoint.origin, found=found, expected=expected, hint=hint)
    lora = checkpoint.history.lora or Lora()
    adapters = adapters_of(specs)
    rank = rank_of(adapters, lora)
    if lora.alpha is None:
        raise MappingError("MFC319", checkpoint.origin, found="no lora_alpha", expected="the alpha of the run", hint=HINT_ALPHA)
    config = checkpoint.config or {}
    plan = OutputPlan((safetensors_file.plan_file(peft_folder.WEIGHTS, specs, {"format": "pt"}),), folder=True)
    content = peft_folder.adapter_config_bytes(
        [a.module for a in adapters],
        rank,
        lora.alpha,
        lora,
        transposed=bool(conv1d_layers(config.get("model_type"))),
        task=peft_folder.task_of(config),
    )
    return plan, {peft_folder.CONFIG: content}


def configs_of_run_adapters(
    checkpoint: Checkpoint, specs: Sequence[TensorSpec], step: int | None = None, folders: Sequence[str] = ("",)
) -> dict[str, bytes]:
    """What MindFormers looks for beside adapters of a run; nothing where there are none, or nobody said alpha.

    Args:
        step: of a Checkpoint 2.0, whose loader has a config of its own; None for other forms.
        folders: where that lies.
    Raises:
        MappingError: MFC319 for halves that are no pair, or several ranks.
    """
    lora, adapters = checkpoint.history.lora or Lora(), adapters_of(specs)
    if not adapters or lora.alpha is None:
        return {}
    modules, rank = [adapter.module for adapter in adapters], rank_of(adapters, lora)
    found = {peft_folder.CONFIG: adapter_config_of_run_bytes(modules, rank, lora.alpha, lora.dropout)}
    if step is not None and len(specs) == 2 * len(adapters):
        own = adapters_of_run_bytes(modules, rank, lora.alpha, lora.dropout, step)
        found |= {f"{folder}{RUN_CONFIG_OF_ADAPTERS}": own for folder in folders}
    return found


# ---- the manifest ----------------------------------------------------------------------------------------------------------


def manifest_of(
    out: Output,
    checksums: Mapping[tuple[int, str], str],
    computed: DequantisedReport | None = None,
    published: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """How every tensor came about. No times, no paths: two runs of the same conversion give the same bytes.

    Args:
        checksums: of what lies in the files, by (file number, name).
        computed: what rounding did to numbers that are computed from codes.
        published: how their weights were published; an entry of the manifest, or nothing.
    """
    checkpoint, history, plan = out.checkpoint, out.checkpoint.history, plan_of(out.checkpoint)
    return {
        "family": checkpoint.family,
        **({"family_file": history.family_file} if history.family_file else {}),
        "options": dict(checkpoint.options),
        "from_side": history.original.side if history.original else None,
        "to": checkpoint.side,
        "sources": [{"file": s.label, "bytes": s.size} for s in out.sources()],
        "files": [{"file": f.name, "bytes": f.size} for f in out.plan.files],
        "carried": list(out.carried),
        "left_out": [
            *({"name": s.name, "why": row.why} for row in _rows(plan) if not row.targets for s in row.sources),
            *({"name": name, "why": why} for name, why in out.left_out.items()),
        ],
        **_request_entry(plan, history.original),
        "no_tensors": [{"name": o.name, "kind": o.kind, "text": o.text} for o in history.others],
        "checksum": f"xxh3_128 of a tensor's bytes; above {64 << 20} bytes, of the digests of its runs of that length",
        "config": checkpoint.config,
        **_adapters_entry(checkpoint),
        **(published or {}),
        **({"slices": _slices(out, checksums)} if out.offsets else {}),
        "tensors": _tensors(out, checksums, computed),
    }


def _tensors(out: Output, checksums: Mapping[tuple[int, str], str], computed: DequantisedReport | None) -> list[dict[str, Any]]:
    """One entry per tensor, in the order of the files; with its checksum where it is written whole."""
    checkpoint, made, entries = out.checkpoint, {**_origins_of(out.checkpoint), **out.origins}, {}
    for number, file in enumerate(out.plan.files):
        for name in file.places:
            if name in entries:
                continue
            before, after = stored_dtype(checkpoint.tensors[name]), out.dtypes[name]
            place = {} if out.offsets else {"file": file.name}
            entry = {"name": name, **place, "shape": list(checkpoint.tensors[name].shape), "dtype": after}
            entry |= {**({} if out.offsets else {"xxh3_128": checksums[number, name]}), **made.get(name, {"from": [name]})}
            entry |= {**_computation_of(checkpoint.tensors[name]), **(computed.about(name) if computed is not None else {})}
            cast = {} if before == after else {"cast_from": before}
            entries[name] = {**entry, **cast, **({"dtype_fixed": True} if cast and name in checkpoint.history.fixed_dtypes else {})}
    return list(entries.values())


def _computation_of(tensor: LazyTensor) -> dict[str, str]:
    """Of a tensor whose numbers are no copies: how they were computed."""
    how = next((said for p in tensor.pieces if (said := getattr(p.source, "computed", None)) is not None), None)
    return {} if how is None else {"computed": how}


def _adapters_entry(checkpoint: Checkpoint) -> dict[str, Any]:
    """What is known of the adapters in it, and what was merged into it."""
    lora, merged = checkpoint.history.lora, checkpoint.history.merged
    about: dict[str, Any] = {}
    if lora is not None and any(is_adapter(n) for n in checkpoint.tensors):
        said = {"lora_alpha": lora.alpha, "read_from": lora.origin} if lora.alpha is not None else {}
        said |= {"rank": lora.rank, "part_rank": lora.part_rank} if lora.part_rank is not None else {}
        about = {"lora": said} if said else {}
    return {**about, **({"merged": merged.about()} if merged is not None else {})}


def _slices(out: Output, checksums: Mapping[tuple[int, str], str]) -> list[dict[str, Any]]:
    """One entry per slice: its file, where it begins in the whole tensor, its shape and its checksum."""
    return [
        {"name": n, "file": f.name, "offset": list(offsets[n]), "shape": list(held[n].shape), "xxh3_128": checksums[number, n]}
        for number, (f, held, offsets) in enumerate(zip(out.plan.files, out.held, out.offsets, strict=True))
        for n in f.places
    ]


def _request_entry(plan: MappingPlan | None, original: Original | None) -> dict[str, Any]:
    """Which layers, names and rows the caller left out, so that a proof leaves out the same."""
    asked: dict[str, Any] = {"layers": plan.layers, "leave_out": list(plan.leave_out)} if plan is not None else {}
    if plan is not None and original is not None and original.cut_vocabulary:
        asked["cut_vocabulary"] = True
    return {"asked": asked} if any(asked.values()) else {}


def _rows(plan: MappingPlan | None) -> Sequence[Row]:
    return plan.rows if plan is not None else ()


def _origins_of(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    """How each tensor was made. One that joins several, under a name in memory, was made of all that they were made of."""
    made: dict[str, dict[str, Any]] = {}
    for row in _rows(plan_of(checkpoint)):
        layout = getattr(row.rule, "layout", None)
        for target in row.targets:
            entry: dict[str, Any] = {"from": [s.name for s in row.sources], "how": row.status}
            made[target.name] = {**entry, "layout": layout} if row.parts and layout else entry
    names = checkpoint.made_of if isinstance(checkpoint, MappedCheckpoint) else {}
    joined = {name: [made[n] for n in parts] for name, parts in names.items()}
    return made | {
        name: {**entries[0], "from": list(dict.fromkeys(n for entry in entries for n in entry["from"]))} for name, entries in joined.items()
    }
