"""TRL's `SFTTrainer` for pruned inputs: rows are checked first, batches pad little, the log says what was kept."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Any

import torch
import trl
from accelerate.utils import broadcast_object_list
from datasets import Dataset

from pixelprune.selection.config import PruneConfig
from pixelprune.selection.errors import OptionError
from pixelprune.training.collator import Collator
from pixelprune.training.config import SFTConfig
from pixelprune.training.draws import ROW_THRESHOLD, drawn_thresholds
from pixelprune.training.measure import Measured, measure
from pixelprune.training.sampler import KeptLengthSampler
from pixelprune.training.sharding import gather_head_in_forward
from pixelprune.transformers import is_enabled, kept
from pixelprune.transformers.processing import configured
from pixelprune.transformers.switch import inner_model

_log = logging.getLogger("pixelprune")


class SFTTrainer(trl.SFTTrainer):
    """Supervised fine-tuning of a model that sees pruned inputs.

    Everything that TRL's `SFTTrainer` does. In addition, each row is made into a batch before the first
    step: rows that cannot be trained on are named, and the lengths of the others after pruning decide
    which rows share a batch. The log shows ``visual_tokens`` and ``visual_tokens_unpruned`` per step,
    ``retain_ratio`` (kept blocks), and ``tokens_per_second`` (without padding, over all processes).

    Args:
        model: enabled with `pixelprune.transformers.enable`; may be wrapped by PEFT.
        args: an `SFTConfig` from this package.
        train_dataset: rows as TRL takes them, or as `load_rows` gives them.
        eval_dataset: the same, or None.
        processing_class: the enabled processor.
        options: whatever else TRL's trainer takes, by name.

    Raises:
        ValueError: model or processor is not enabled; rows have no images; rows cannot be trained on
            and `args.on_bad_row` is "stop", or none can.

    Example (`model` and `processor` as loaded with `from_pretrained`):

        pixelprune.transformers.enable(model, processor)
        args = SFTConfig(output_dir="out", per_device_train_batch_size=4)
        SFTTrainer(model, args, train_dataset=load_rows("train.jsonl"), processing_class=processor).train()
    """

    def __init__(
        self,
        model: Any,
        args: SFTConfig,
        train_dataset: Any,
        eval_dataset: Any = None,
        processing_class: Any = None,
        **options: Any,
    ) -> None:
        _check_given(model, args, train_dataset, processing_class)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **options,
        )
        if self.is_fsdp_enabled:
            gather_head_in_forward(inner_model(self.model))
        self.data_collator = Collator(self.data_collator, self._has_teacher())
        self._lengths: list[int] | None = None
        if isinstance(train_dataset, Dataset):
            train_dataset = _with_draws(train_dataset, args, configured(processing_class))
            self.train_dataset, self._lengths = self._good_rows(train_dataset, "train_dataset")
        if isinstance(eval_dataset, Dataset):
            self.eval_dataset, _ = self._good_rows(eval_dataset, "eval_dataset")
        self._meter = _Meter()

    def _has_teacher(self) -> bool:
        return False

    def _good_rows(self, rows: Dataset, name: str) -> tuple[Dataset, list[int]]:
        found: list[Measured | None] = [None]
        if self.accelerator.is_main_process:
            found = [measure(rows, self.data_collator, self.args.dataloader_num_workers, self.args.disable_tqdm)]
        # The other processes wait here for what the first one found.
        (measured,) = broadcast_object_list(found)
        assert measured is not None
        if measured.problems:
            many = f"{len(measured.problems)} of {len(rows)} rows of {name} cannot be trained on"
            if self.args.on_bad_row == "stop" or not measured.good:
                way_out = (
                    "fix them, or skip them with on_bad_row='skip' (--on-bad-row skip)" if measured.good else "fix them"
                )
                raise ValueError(f"{many}; {way_out}:\n{measured.report()}")
            if self.accelerator.is_main_process:
                _log.warning("%s and are skipped:\n%s", many, measured.report())
        return rows.select(measured.good), measured.lengths

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        args = self.args
        if self._lengths is None or not args.group_by_kept_length or args.train_sampling_strategy != "random":
            return super()._get_train_sampler(train_dataset)
        rows = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        return KeptLengthSampler(self._lengths, rows, _data_seed(args))

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        more = [name for name in ("row", ROW_THRESHOLD) if name not in self._signature_columns]
        self._signature_columns = [*self._signature_columns, *more]

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        self._meter.count(inputs)
        loss = super().training_step(model, inputs, *args, **kwargs)
        self._meter.add(seconds=time.perf_counter() - start)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._meter.counts:
            logs.update(self._meter.read(self.accelerator, self.args.gradient_accumulation_steps))
        super().log(logs, start_time)


class _Meter:
    """Sums since the last line of the log, of this process."""

    def __init__(self) -> None:
        self.counts: dict[str, float] = {}

    def add(self, **values: float) -> None:
        for name, value in values.items():
            self.counts[name] = self.counts.get(name, 0) + value

    def count(self, inputs: dict[str, Any]) -> None:
        images = kept(inputs)
        self.add(
            batches=1,
            blocks=sum(image.total for image in images),
            kept=sum(image.kept for image in images),
            visual=sum(image.tokens for image in images),
            tokens=int(inputs["attention_mask"].sum()),
        )

    def read(self, accelerator: Any, batches_of_step: int) -> dict[str, float]:
        """What the log says, of all processes; counts start again from zero."""
        mine, self.counts = self.counts, {}
        steps, seconds = mine.pop("batches") / batches_of_step, mine.pop("seconds")
        values = torch.tensor(list(mine.values()), dtype=torch.float32, device=accelerator.device)
        total = dict(zip(mine, accelerator.reduce(values, "sum").tolist(), strict=True))
        result = {
            "visual_tokens": total["visual"] / steps,
            "visual_tokens_unpruned": total["blocks"] / steps,
            "retain_ratio": total["kept"] / total["blocks"] if total["blocks"] else 1.0,
            "tokens_per_second": total["tokens"] / seconds,
        }
        if answers := total.get("answers"):
            result |= {f"{name}_loss": total[name] / answers for name in ("ce", "kl")}
            result["mean_token_accuracy"] = total["correct"] / answers
        return result


def _data_seed(args: Any) -> int:
    seed: int = args.seed if args.data_seed is None else args.data_seed
    return seed


def _mixes(args: SFTConfig) -> bool:
    return args.unpruned_share > 0 or args.thresholds is not None


def _with_draws(rows: Dataset, args: SFTConfig, config: PruneConfig) -> Dataset:
    """Rows with what was drawn for each in a column, where they are not all pruned alike."""
    if not _mixes(args):
        return rows
    if args.thresholds is not None and config.threshold:
        several = ", ".join(f"{threshold:g}" for threshold in args.thresholds)
        problem = f"takes the place of threshold, got both ({several}; {config.threshold:g})"
        raise OptionError("thresholds", problem, "leave out one of them")
    thresholds = [config.threshold] if args.thresholds is None else args.thresholds
    for threshold in thresholds:
        replace(config, threshold=threshold)  # an error now: a budget may not allow it
    names = rows["row"] if "row" in rows.column_names else range(1, len(rows) + 1)
    drawn = drawn_thresholds(names, args.unpruned_share, thresholds, _data_seed(args))
    return rows.add_column(ROW_THRESHOLD, drawn)


def _check_given(model: Any, args: Any, rows: Any, processor: Any) -> None:
    for name, thing in (("model", inner_model(model)), ("processing_class", processor)):
        if not is_enabled(thing):
            raise ValueError(
                f"{name} is not enabled, so it would be trained on unpruned inputs; call "
                "pixelprune.transformers.enable(model, processor) first"
            )
    if not isinstance(args, SFTConfig):
        raise ValueError(f"args must be a pixelprune.training.SFTConfig, got {type(args).__name__}")
    if args.on_bad_row == "skip" and not isinstance(rows, Dataset):
        raise ValueError("on_bad_row='skip' needs rows that can be counted; load them without streaming")
    if _mixes(args) and not isinstance(rows, Dataset):
        name = "unpruned_share" if args.unpruned_share else "thresholds"
        raise OptionError(name, "needs rows that can be counted", in_python="load them without streaming")
    columns = getattr(rows, "column_names", None) or []
    if not {"image", "images"} & set(columns):
        raise ValueError(f"train_dataset must have a column 'images' or 'image', got {', '.join(columns) or 'none'}")
