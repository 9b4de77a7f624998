"""torch's own inputs of its cross-entropies, written to a file: `python torch_samples.py FILE`.

torch's private test modules change flags of the whole process as they are imported (after which Lightning cannot
set torch.backends any more), so they run in a process of their own.
"""

import sys
import warnings


def collect():
    """Return the samples by function, and the inputs and wrong inputs of modules by class, as plain tuples."""
    warnings.simplefilter("ignore")  # theirs are not ours
    import torch
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import module_db

    torch.manual_seed(0)
    samples, modules, wrong = {}, {}, {}
    for op in op_db:
        if op.name in ("nn.functional.cross_entropy", "nn.functional.binary_cross_entropy_with_logits"):
            samples[op.name.rpartition(".")[2]] = [
                (one.input, *one.args, one.kwargs) for one in op.sample_inputs("cpu", torch.float64)
            ]
    for info in module_db:
        if info.name in ("nn.CrossEntropyLoss", "nn.BCEWithLogitsLoss"):
            name = info.name.removeprefix("nn.")
            given = {"device": "cpu", "dtype": torch.float64, "requires_grad": False, "training": True}
            modules[name] = [
                (one.desc, one.constructor_input.kwargs, one.forward_input.args)
                for one in info.module_inputs_func(info, **given)
            ]
            errors = info.module_error_inputs_func or (lambda *_, **__: [])
            wrong[name] = [
                (
                    one.error_regex,
                    one.module_error_input.constructor_input.kwargs,
                    one.module_error_input.forward_input.args,
                )
                for one in errors(info, **given)
            ]
    return samples, modules, wrong


if __name__ == "__main__":
    import torch

    torch.save(collect(), sys.argv[1])
