"""What a length that was never seen costs causal attention, forward and backward, by kernel.

    python tests/benchmarks/attention_lengths.py

Heads of Qwen3-VL-2B, bfloat16, one row. Prints milliseconds of each length's first and second time, and one line of
JSON.
"""

import json
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel


KERNELS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}
LENGTHS = (9801, 9817, 9830, 9856, 9870, 9984)
HEADS, KEY_HEADS, SIZE = 16, 8, 128


def attend(length: int) -> float:
    """Milliseconds of one forward and backward pass."""
    query, key, value = (
        torch.randn(1, heads, length, SIZE, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for heads in (HEADS, KEY_HEADS, KEY_HEADS)
    )
    torch.cuda.synchronize()
    start = time.perf_counter()
    output = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    output.backward(output.detach())
    torch.cuda.synchronize()
    return round(1000 * (time.perf_counter() - start), 1)


def main():
    if not torch.cuda.is_available():
        raise SystemExit("These are kernels of CUDA GPUs, and there is none here.")
    results = {}
    for name, kernel in KERNELS.items():
        with sdpa_kernel([kernel]):
            attend(LENGTHS[0] - 1)  # libraries are loaded
            results[name] = {when: [attend(length) for length in LENGTHS] for when in ("first", "second")}
        print(name, results[name], flush=True)
    print(json.dumps({"machine": torch.cuda.get_device_name(), "torch": torch.__version__, "results": results}))


if __name__ == "__main__":
    main()
