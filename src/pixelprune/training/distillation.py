"""Self-distillation: the student sees the kept blocks of an image, its teacher every block.

    loss = α·CE + (1 − α)·T²·KL(teacher ‖ student), over the answer tokens

Logits over the vocabulary exist for a few hundred answer tokens at a time and are computed again in
the backward pass: only hidden states of teacher and student are stored.
"""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from trl.models import prepare_deepspeed, prepare_fsdp

from pixelprune.training.collator import IGNORED, check_aligned
from pixelprune.training.config import SelfDistillationConfig
from pixelprune.training.sharding import is_sharded, sharded_head
from pixelprune.training.trainer import SFTTrainer
from pixelprune.transformers import enable
from pixelprune.transformers.switch import inner_model

# Answer tokens whose logits exist at one time: 256 × 152k × 4 bytes are 156 MB.
CHUNK = 256


class SelfDistillationTrainer(SFTTrainer):
    """Train a model, on pruned images, to match its own answers on the full images.

    The teacher is the model as it was passed in: under PEFT the base model with its adapters off, which
    takes no extra memory, otherwise a frozen copy. Answer tokens of both are aligned by their labels.

    The log has ``ce_loss`` and ``kl_loss`` per answer token in addition to what `SFTTrainer` logs.

    Args:
        model, train_dataset, eval_dataset, processing_class, options: as of `SFTTrainer`.
        args: a `SelfDistillationConfig`; α = 1 is plain fine-tuning, without a teacher.
        teacher: another model of the same vocabulary that takes the same processor, or None.

    Raises:
        ValueError: as `SFTTrainer`; or the teacher has another vocabulary; or the loss would ignore an
            option.

    Example (`model` and `processor` enabled):

        args = SelfDistillationConfig(output_dir="out", alpha=0.5, temperature=2.0)
        SelfDistillationTrainer(model, args, train_dataset=rows, processing_class=processor).train()
    """

    def __init__(
        self,
        model: Any,
        args: SelfDistillationConfig,
        train_dataset: Any,
        eval_dataset: Any = None,
        processing_class: Any = None,
        teacher: Any = None,
        **options: Any,
    ) -> None:
        _check_args(args)
        self._distils = args.alpha < 1
        if self._distils and teacher is not None:
            _check_teacher(model, teacher, processing_class)
        elif self._distils and not _has_adapter(model) and options.get("peft_config") is None:
            # Before training, and before TRL changes the model.
            teacher = copy.deepcopy(model)
        super().__init__(model, args, train_dataset, eval_dataset, processing_class, **options)
        self.teacher = None
        if not self._distils:
            return
        if self.aux_loss_enabled:
            raise ValueError(
                "model has an auxiliary load-balancing loss for its experts, which distillation leaves out; "
                "set router_aux_loss_coef=0"
            )
        _add_hidden_state_hook(inner_model(self.model))
        if teacher is not None:
            _add_hidden_state_hook(teacher)
            self.teacher = self._prepared(teacher.eval().requires_grad_(False))

    def _has_teacher(self) -> bool:
        return self._distils

    def _prepared(self, teacher: Any) -> Any:
        if self.is_deepspeed_enabled:
            return prepare_deepspeed(teacher, self.accelerator)
        if self.is_fsdp_enabled:
            return prepare_fsdp(teacher, self.accelerator)
        return self.accelerator.prepare_model(teacher, evaluation_mode=True)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        unpruned = inputs.pop("teacher", None)
        if not self._distils:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs["labels"]
        check_aligned(labels, unpruned["labels"])
        states, head = self._teacher_states(model, unpruned)
        sums = model(
            **_without_labels(inputs),
            read_answers=functools.partial(
                answer_losses,
                labels=labels,
                teacher_states=states,
                teacher_head=head,
                temperature=self.args.temperature,
            ),
        )
        count = (labels[:, 1:] != IGNORED).sum()
        self._meter_losses(sums, count)
        alpha, scale = self.args.alpha, self.args.temperature**2
        loss = alpha * sums["ce"] + (1 - alpha) * scale * sums["kl"]
        loss = loss / (count if num_items_in_batch is None else num_items_in_batch)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            # Tokens are counted over all processes, and gradients are averaged over them.
            loss = loss * (self.accelerator.num_processes // self.get_tp_size())
        if not return_outputs:
            return loss
        return loss, super().compute_loss(model, inputs, True, num_items_in_batch)[1]

    @torch.no_grad()
    def _teacher_states(self, model: Any, unpruned: dict[str, Any]) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Hidden states (answer tokens, width) of the teacher, and its head."""
        read = functools.partial(answer_states, labels=unpruned["labels"])
        if self.teacher is not None:
            states = self.teacher(**_without_labels(unpruned), read_answers=read)
            return states, head_of(self.accelerator.unwrap_model(self.teacher))
        student = self.accelerator.unwrap_model(model)
        was_training = student.training
        student.eval()  # no dropout
        with student.disable_adapter():
            states = model(**_without_labels(unpruned), read_answers=read)
        student.train(was_training)
        return states, head_of(inner_model(student), base=True)

    def _meter_losses(self, sums: dict[str, Tensor], count: Tensor) -> None:
        if self.model.training:
            self._meter.add(**{name: float(value.detach()) for name, value in sums.items()}, answers=int(count))


def answer_states(model: Any, states: Tensor, labels: Tensor) -> Tensor:
    """From hidden states (batch, S, width), those that predict answers: (answer tokens, width)."""
    return states[:, :-1][labels[:, 1:] != IGNORED]


def answer_losses(
    model: Any,
    states: Tensor,
    labels: Tensor,
    teacher_states: Tensor,
    teacher_head: Callable[[Tensor], Tensor],
    temperature: float,
) -> dict[str, Tensor]:
    """Cross entropy and KL(teacher ‖ student) in nats, each summed over the answer tokens.

    Args:
        model: the student; its head is used.
        states: (batch, S, width) its last hidden states.
        labels: (batch, S); −100 for tokens that are not part of an answer.
        teacher_states: (answer tokens, width of the teacher) in the same order.
        teacher_head: from those to logits over the vocabulary.
        temperature: T, which divides the logits in KL (Hinton et al., 2015, section 2).

    Returns:
        ``ce`` and ``kl``, and ``correct``, the number of answer tokens that the student finds most likely.
    """
    rows, targets = answer_states(model, states, labels), labels[:, 1:][labels[:, 1:] != IGNORED]
    head = head_of(model)

    def losses(rows: Tensor, targets: Tensor, teacher_rows: Tensor) -> Tensor:
        logits = head(rows)
        with torch.no_grad():
            teacher = F.log_softmax(teacher_head(teacher_rows) / temperature, -1)
        ce = F.cross_entropy(logits, targets, reduction="sum")
        kl = F.kl_div(F.log_softmax(logits / temperature, -1), teacher, reduction="sum", log_target=True)
        return torch.stack([ce, kl, (logits.argmax(-1) == targets).sum().to(ce)])

    total = rows.new_zeros(3, dtype=torch.float32)
    for part in zip(rows.split(CHUNK), targets.split(CHUNK), teacher_states.split(CHUNK), strict=True):
        total = total + checkpoint(losses, *part, use_reentrant=False)
    return dict(zip(("ce", "kl", "correct"), (total[0], total[1], total[2].detach()), strict=True))


def head_of(model: Any, base: bool = False) -> Callable[[Tensor], Tensor]:
    """From hidden states (…, width) to float32 logits (…, vocabulary), as the model itself computes them.

    Args:
        model: a model with a head.
        base: whether to take the head below adapters.
    """
    head = model.get_output_embeddings()
    head = getattr(head, "original_module", head) if base else head
    config = model.config.get_text_config()
    scale, cap = getattr(config, "output_multiplier", None), getattr(config, "final_logit_softcapping", None)

    apply = sharded_head(head) if is_sharded(head) else lambda states: head(states.to(head.weight.dtype))

    def logits(states: Tensor) -> Tensor:
        values = apply(states)
        values = values.float() * (1.0 if scale is None else scale)
        return values if cap is None else cap * torch.tanh(values / cap)

    return logits


def _add_hidden_state_hook(model: Any) -> None:
    """Give one model object a forward that can stop before its head, as TRL does for its own loss.

    Hidden states are read within forward, where wrappers for several processes gather the weights.
    """
    stock = model.forward

    @functools.wraps(type(model).forward)
    def forward(self: Any, *args: Any, read_answers: Any = None, **kwargs: Any) -> Any:
        if read_answers is None:
            return stock(*args, **kwargs)
        return read_answers(self, self.base_model(*args, **kwargs, use_cache=False).last_hidden_state)

    model.forward = types.MethodType(forward, model)


def _without_labels(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if name not in ("labels", "use_cache")}


def _has_adapter(model: Any) -> bool:
    return hasattr(model, "disable_adapter")


def _check_args(args: Any) -> None:
    if not isinstance(args, SelfDistillationConfig):
        raise ValueError(f"args must be a pixelprune.training.SelfDistillationConfig, got {type(args).__name__}")
    if args.alpha < 1 and (args.label_smoothing_factor or args.loss_type != "nll"):
        raise ValueError(
            "distillation has its own loss; leave out label_smoothing_factor and loss_type, or set alpha=1"
        )


def _check_teacher(model: Any, teacher: Any, processor: Any) -> None:
    sizes = [inner_model(one).config.get_text_config().vocab_size for one in (model, teacher)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"teacher must have the vocabulary of model, {sizes[0]} tokens, got {sizes[1]}; "
            "distill from a checkpoint of the same tokenizer"
        )
    # Refuses a teacher that does not read patches the way this processor makes them.
    enable(teacher, copy.deepcopy(processor))
