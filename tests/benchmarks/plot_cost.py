"""Draw how the cost of a training step grows with the questions about a clip, and with its frames.

python tests/benchmarks/training_step.py --cases shared --four-alone --questions 1 2 4 8 16 32 64 | tail -1 > questions
python tests/benchmarks/training_step.py --cases shared --four-alone --frame-counts 8 16 32 64 128 | tail -1 > frames
python tests/benchmarks/plot_cost.py questions frames --out docs/images/training_cost.png
"""

import argparse
import json
import re
from pathlib import Path

import matplotlib.pyplot as plt


NAME = re.compile(r"(\d+) questions, (\d+) frames")


def points(path: str) -> tuple[dict, list[tuple[int, int, dict]]]:
    """The report in a file, and its results with their numbers of questions and frames."""
    report = json.loads(Path(path).read_text())
    found = [
        (*map(int, NAME.search(name).groups()), {**result, "recomputed": name.endswith("recomputed")})
        for name, result in report["results"].items()
    ]
    return report, found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", help="JSON line of the sweep over questions")
    parser.add_argument("frames", help="JSON line of the sweep over frames")
    parser.add_argument("--out", required=True)
    arguments = parser.parse_args()

    report, by_questions = points(arguments.questions)
    _, by_frames = points(arguments.frames)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    counts = [questions for questions, _, _ in by_questions]
    axes[0].loglog(counts, [result["per_question"] for *_, result in by_questions], "o-", label="per question")
    axes[0].loglog(counts, [result["seconds"] for *_, result in by_questions], "s--", label="per clip")
    axes[0].set(xlabel="questions per clip (32 frames)", ylabel="seconds", xticks=counts, xticklabels=counts)
    frames = [count for _, count, _ in by_frames]
    axes[1].loglog(frames, [result["seconds"] for *_, result in by_frames], "s--", label="per clip, seconds")
    axes[1].loglog(frames, [result["peak_gib"] for *_, result in by_frames], "^:", label="peak memory, GiB")
    axes[1].set(xlabel=f"frames ({by_frames[0][0]} questions per clip)", xticks=frames, xticklabels=frames)
    for _, count, result in by_frames:
        if result["recomputed"]:
            place = (count, result["seconds"])
            axes[1].annotate("recomputed", place, (-58, 4), textcoords="offset points", fontsize=8)
    for axis in axes:
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle(f"A training step of Qwen3-VL-2B's shapes, four losses, {report['machine']}", fontsize=10)
    figure.savefig(arguments.out, dpi=150)


if __name__ == "__main__":
    main()
