"""Run the conformance check of every family in double precision; prints one JSON object.

Model code asks for float32 in places (softmax, norms, rotary angles). In this process, and before
transformers is imported, those words mean float64, so that what is left is a real difference.
"""

from __future__ import annotations

import json
import sys

import torch


def let_every_float_be_double() -> None:
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double
    torch.set_default_dtype(torch.float64)


def main() -> None:
    let_every_float_be_double()
    import transformers

    from tests.support.cases import Case, absent, difference
    from tests.support.prompts import ROWS
    from tests.support.tiny_models import ALL

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    errors = {}
    for name in (name for name in ALL if not absent(name)):
        case = Case(name, experts_implementation="eager")
        full, pruned = case.prompts(ROWS, side="right")
        errors[name] = difference(case.got(pruned), case.right(full, pruned))
    sys.stdout.write(json.dumps(errors) + "\n")


if __name__ == "__main__":
    main()
