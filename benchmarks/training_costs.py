"""Hours and memory of training Llama 3 8B on GPUs of 24 to 80 GB, computed, not measured.

    python benchmarks/training_costs.py

For a million tokens of prompts as step 4 writes them (768 tokens each, 26% of them supervised).
Checkpointing is the least with which the sum stays below nine tenths of the memory; speed assumes
that the GPU reaches `SHARE` of its peak, recomputation included, which is what the best published
run on a Hopper GPU reaches.
"""

from train_gpu import LLAMA_3_8B

from mimic_qlora.training import cost, hardware

SHARE, RANK, SAMPLE, SUPERVISED = 0.4, 16, 768, 0.26
GPUS = {
    "RTX 4090": (24, 4096),
    "L4": (24, 4096),
    "L40S": (48, 8192),
    "A6000": (48, 8192),
    "A100": (80, 8192),
    "H100": (80, 8192),
}

KINDS = {None: "no layer", 2: "every second layer", 1: "every layer"}


def main():
    shape = cost.shape(LLAMA_3_8B)
    print(
        "| GPU | memory | `--batch-tokens` | checkpointed | GiB in all "
        "| hours for a million tokens |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for name, (memory, room) in GPUS.items():
        for every in (None, 2, 1):
            total = cost.fixed_bytes(shape, RANK)
            kept = cost.kept_layers(shape, every)
            total += cost.activation_bytes(shape, room, round(room * SUPERVISED), kept)
            if total < 0.9 * memory * 1e9:
                break
        flops = cost.flops_per_token(shape, RANK, SAMPLE / 2, SUPERVISED)
        again = cost.recomputed_flops_per_token(shape, RANK, SAMPLE / 2, every)
        hours = 1e6 * (flops + again) / (SHARE * hardware.PEAK_TFLOPS[name] * 1e12) / 3600
        print(
            f"| {name} | {memory} GB | {room:,} | {KINDS[every]} | {total / 2**30:.0f} "
            f"| {hours:.2f} |"
        )


if __name__ == "__main__":
    main()
