"""Which training fits on which GPU: memory by arithmetic, from the models' own layers. Needs neither GPU nor weights.

    python tests/benchmarks/memory.py                  # one packed row of 12,000 tokens: a clip with 32 questions
    python tests/benchmarks/memory.py --tokens 40000

Counted: weights, gradients and AdamW's two states; the input of each decoder layer and all that one layer keeps, since
activations are recomputed; the states that the heads read. Not counted: the heads' own activations, the vision tower
while it runs, and what PyTorch's allocator loses; a tenth of the card is left for them. Prints a table and one line of
JSON.
"""

import argparse
import json

import torch
from training_step import SHAPES_2B

from geovr_hf import GeoVRConfig, GeoVRForConditionalGeneration, GeoVRTrainingArguments
from geovr_hf.trainers import geovr_lora_config
from geovr_hf.trainers.activation_memory import activation_bytes
from geovr_hf.trainers.parameter_groups import freeze_parameters


def sized(hidden: int, intermediate: int, layers: int, heads: int, vision: dict, tied: bool) -> dict:
    """Arguments of a configuration: the shapes of Qwen3-VL-2B with another size."""
    text = {"hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers}
    return {
        "text_config": SHAPES_2B["text_config"] | text | {"num_attention_heads": heads},
        "vision_config": SHAPES_2B["vision_config"] | vision | {"out_hidden_size": hidden},
        "tie_word_embeddings": tied,
    }


LARGE_TOWER = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "deepstack_visual_indexes": [8, 16, 24]}
MODELS = {
    "Qwen3-VL-2B": SHAPES_2B,
    "Qwen3-VL-4B": sized(2560, 9728, 36, 32, {}, tied=True),
    "Qwen3-VL-8B": sized(4096, 12288, 36, 32, LARGE_TOWER, tied=False),
}
# Bytes of a weight, and of a trained one with its gradient and optimizer states. 4 bits: NF4, its scales in 8 bits.
METHODS = {
    "everything, float32 weights": (4, 4 + 2 + 4 + 8),  # 2: the bfloat16 copy that autocast makes
    "everything, bfloat16 weights": (2, 2 + 2 + 4),
    "LoRA": (2, 4 + 4 + 8),
    "QLoRA": (2, 4 + 4 + 8),
}
FOUR_BITS = 0.5 + 0.127 / 8
CARDS = (16, 24, 48, 80, 141)
GIB = 2**30


def needed_bytes(shapes: dict, method: str, tokens: int) -> float:
    """Memory of a training step.

    Args:
        shapes (`dict`): Arguments of the configuration.
        method (`str`): A key of `METHODS`.
        tokens (`int`): Tokens of a step.

    Returns:
        `float`: Bytes.
    """
    config = GeoVRConfig(**shapes)
    with torch.device("meta"):
        model = GeoVRForConditionalGeneration._from_config(config)
    freeze_parameters(model, GeoVRTrainingArguments("unused", use_cpu=True))
    if "LoRA" in method:
        from peft import get_peft_model

        model = get_peft_model(model, geovr_lora_config(model), low_cpu_mem_usage=True)
    frozen_size, trained_size = METHODS[method]
    total = 0.0
    for name, parameter in model.named_parameters():
        in_four_bits = method == "QLoRA" and "language_model.layers" in name and name.endswith("base_layer.weight")
        size = trained_size if parameter.requires_grad else FOUR_BITS if in_four_bits else frozen_size
        total += parameter.numel() * size
    text = config.text_config
    inputs = text.num_hidden_layers * tokens * text.hidden_size * 2
    one_layer = activation_bytes(text, tokens, 2) / text.num_hidden_layers
    read = len(config.teacher_depth_layers) * tokens * text.hidden_size * 2
    return total + inputs + one_layer + read


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=12_000, help="tokens of a step on one GPU")
    arguments = parser.parse_args()
    results = {}
    print(f"| {arguments.tokens:,} tokens | " + " | ".join(METHODS) + " |")
    print("|---|" + "---:|" * len(METHODS))
    for name, shapes in MODELS.items():
        needed = {method: needed_bytes(shapes, method, arguments.tokens) for method in METHODS}
        results[name] = {method: size / GIB for method, size in needed.items()}
        cells = []
        for size in needed.values():
            card = next((f"{card} GB" for card in CARDS if size <= 0.9 * card * GIB), "shared out")
            cells.append(f"{size / GIB:.0f} GiB, {card}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    print(json.dumps({"tokens": arguments.tokens, "gib": results}))


if __name__ == "__main__":
    main()
