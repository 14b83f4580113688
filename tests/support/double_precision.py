"""Everything in float64, where a test claims exactness; run as a program, the conformance check of every family.

Model code asks for float32 in places (softmax, norms, rotary angles). Here that name means float64, so that what is
left is a real difference. The program prints one JSON object, the largest difference in each family.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from unittest import mock

import torch


@contextlib.contextmanager
def every_float_is_double() -> Iterator[None]:
    """Within, float32 means float64 wherever its name is looked up; models have to be loaded within."""
    before = torch.get_default_dtype()
    with (
        mock.patch.multiple(torch, float32=torch.float64, float=torch.float64),
        mock.patch.object(torch.Tensor, "float", torch.Tensor.double),
    ):
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def main() -> None:
    # Before transformers is imported: some of its modules look the name up then.
    with every_float_is_double():
        import transformers

        from tests.support.cases import Case, absent
        from tests.support.prompts import ROWS
        from tests.support.rounding import difference
        from tests.support.tiny_models import ALL

        transformers.logging.set_verbosity_error()
        torch.set_num_threads(1)
        errors = {}
        for name in (name for name in ALL if not absent(name)):
            case = Case(name, experts_implementation="eager")
            errors[name] = 0.0
            for restore in (0, 0.25, 1):
                full, pruned = case.prompts(ROWS, side="right", restore=restore)
                errors[name] = max(errors[name], difference(case.actual(pruned), case.expected(full, pruned)))
        sys.stdout.write(json.dumps(errors) + "\n")


if __name__ == "__main__":
    main()
