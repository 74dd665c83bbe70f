"""Step 7's answers against two model copies asked one by one; step 6's start and look-ups.

    python benchmarks/answers.py       # on a CPU, the embedded model: some minutes
    python benchmarks/answers.py --gpu --lm-eval VENV/bin/python
                                       # one GPU, Llama-3-8B's shape with random weights
    python benchmarks/answers.py --steps STORAGE
                                       # start and look-up, of a storage folder with steps 1 to 5

The old way loads the base twice, one copy with the adapter, and asks each copy one question after
the other. Each system runs in a process of its own; CPU and wall seconds are of answering alone,
memory is the process's peak, trials a minute are of CPU time on a CPU. lm-evaluation-harness runs
in an environment of its own: VENV/bin/pip install "lm_eval[hf]" peft bitsandbytes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from measure import measure

ROOT = Path(__file__).resolve().parent.parent
TEXT = (
    "Since I came home I have had a headache that comes and goes. "
    "Could one of my medicines have to do with it? "
)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--prompt-tokens", type=int, nargs="+", default=[60, 700], help="default: 60 700"
    )
    parser.add_argument("--precision", nargs="+", default=["nf4", "fp32"], help="default: nf4 fp32")
    parser.add_argument("--questions", type=int, help="default: 8, and 256 on a GPU")
    parser.add_argument("--new-tokens", type=int, help="default: 64, and 256 on a GPU")
    parser.add_argument("--batch-size", type=int, default=16, help="rows of step 7 (default: 16)")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument(
        "--lm-eval", metavar="PYTHON", help="of an environment with lm-evaluation-harness"
    )
    parser.add_argument(
        "--shape", default="8b", help="of the model on the GPU: 8b, or tiny to try the script"
    )
    parser.add_argument(
        "--steps", metavar="STORAGE", help="measure step 6 on this storage folder instead"
    )
    parser.add_argument(
        "--work", type=Path, help="folder of the models, kept (default: a temporary one)"
    )
    parser.add_argument("--system", help=argparse.SUPPRESS)  # what one process measures
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.questions = args.questions or (256 if args.gpu else 8)
    args.new_tokens = args.new_tokens or (256 if args.gpu else 64)
    if args.system:
        return SYSTEMS[args.system](args)
    if args.steps:
        return steps(Path(args.steps).resolve())
    work = args.work or Path(tempfile.mkdtemp(prefix="bench_answers_"))
    work.mkdir(parents=True, exist_ok=True)
    prepare(work, args)
    columns = (
        "weights|prompt tokens|system|answers|CPU s|wall s|trials/min|peak MB|old / this|same text"
    )
    print(f"| {columns.replace('|', ' | ')} |")
    print("| --- " * 10 + "|")
    systems = dict.fromkeys(
        ("old", "step7", "strict", "continuous") if args.gpu else ("old", "step7"), sys.executable
    )
    if args.lm_eval:
        systems["lm_eval"] = args.lm_eval
    for precision in ["nf4"] if args.gpu else args.precision:
        for tokens in args.prompt_tokens:
            compare(systems, precision, tokens, work, args)


def compare(systems: dict, precision: str, tokens: int, work: Path, args) -> None:
    """Print a row per system; "same text" counts the answers that are those of the old way."""
    first = None
    for system, python in systems.items():
        out, said = work / "out.json", work / "said.txt"
        out.unlink(missing_ok=True)
        command = [
            python,
            __file__,
            "--system",
            system,
            "--precision",
            precision,
            "--out",
            out,
            "--work",
            work,
        ]
        command += [
            "--prompt-tokens",
            tokens,
            "--questions",
            args.questions,
            "--new-tokens",
            args.new_tokens,
        ]
        command += ["--batch-size", args.batch_size]
        row = f"| {precision} | {tokens} | {system} |"
        with open(said, "w") as errors:
            cost = measure([str(part) for part in command], stderr=errors)
        if cost.code:
            last = (said.read_text().strip().splitlines() or ["nothing said"])[-1]
            print(
                f"{row} failed with exit code {cost.code}: {last[:200]} | | | | | | |", flush=True
            )
            continue
        found = json.loads(out.read_text())
        first, n = first or found, len(found["answers"])
        seconds = "wall_s" if args.gpu else "cpu_s"
        # the old way is asked fewer questions on a GPU, so the ratio is of the time of one answer
        ratio = first[seconds] / len(first["answers"]) / (found[seconds] / n)
        same = sum(a == b for a, b in zip(first["answers"], found["answers"], strict=False))
        print(
            f"{row} {n} | {found['cpu_s']:.1f} | {found['wall_s']:.1f} "
            f"| {n / 2 / found[seconds] * 60:.1f} | {found.get('gpu_mb') or cost.peak_mb:.0f} "
            f"| {ratio:.1f} | {same} of {min(n, len(first['answers']))} |",
            flush=True,
        )


# ---------------------------------------------------------------- the model, and what it is asked


def prepare(work: Path, args) -> None:
    """The base in work/base and an adapter of random weights, strong enough to change answers, in
    work/adapter.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    from mimic_qlora.llm import finding, loading

    if (work / "adapter").is_dir():
        return
    base = finding.model_path(None, work)
    (work / "base").symlink_to(llama(work, base, args.shape) if args.gpu else base)
    model = loading.load_base(work / "base")
    torch.manual_seed(0)
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    model.save_pretrained(work / "adapter")


def llama(work: Path, embedded: Path, shape: str) -> Path:
    """A model of Llama-3-8B's shape with random weights and the embedded model's tokenizer: speed
    needs no more.
    """
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    sizes = {"8b": (4096, 14336, 32, 32, 8, 128256), "tiny": (64, 128, 2, 4, 2, 49152)}[shape]
    names = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
    )
    config = LlamaConfig(**dict(zip((*names, "vocab_size"), sizes, strict=True)), rope_theta=5e5)
    config.max_position_embeddings = 8192
    folder = work / f"llama_{shape}"
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(embedded, local_files_only=True).save_pretrained(folder)
    return folder


def load(args, adapter: bool, prepared=None):
    from mimic_qlora.llm import loading

    model = loading.load_base((args.work / "base").resolve(), four_bit=args.precision[0] == "nf4")
    model = prepared(model) if prepared else model
    return loading.load_adapter(model, args.work / "adapter") if adapter else model


def prompts(tokenizer, args, n: int) -> list:
    """n different prompts of exactly so many tokens, as step 7 would pass them."""
    tokens = args.prompt_tokens[0]
    whole = [
        tokenizer(f"{i} {TEXT * (tokens // 20 + 2)}", add_special_tokens=False)["input_ids"]
        for i in range(n)
    ]
    return [ids[:tokens] for ids in whole]


def timed(args, rows: list, answer) -> None:
    """Run `answer(rows)`, which gives each row's text, and write what it took."""
    import torch

    answer(rows[:2])  # compiles kernels, fills caches
    wall, cpu = time.perf_counter(), time.process_time()
    texts = answer(rows)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    cost = {
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "answers": texts,
    }
    if torch.cuda.is_available():
        cost["gpu_mb"] = torch.cuda.max_memory_allocated() / 1e6
    args.out.write_text(json.dumps(cost))


# ---------------------------------------------------------------- the systems


def old(args) -> None:
    """Two copies; each question to one, then to the other."""
    import torch

    from mimic_qlora.llm import chat, generation

    copies = {"base": load(args, False), "adapter": load(args, True)}
    tokenizer = chat.load_tokenizer((args.work / "base").resolve())
    settings = generation.greedy(tokenizer, copies["base"], args.new_tokens)
    n = min(args.questions, 8)  # its time per answer does not depend on how many there are

    def answer(rows):
        made = []
        for who, ids in rows:
            inputs = torch.tensor([ids], device=copies[who].device)
            with torch.no_grad():
                output = copies[who].generate(
                    input_ids=inputs,
                    attention_mask=torch.ones_like(inputs),
                    generation_config=settings,
                )
            made.append(
                generation.to_answer(
                    tokenizer, output[0, len(ids) :].tolist(), settings.eos_token_id
                ).text
            )
        return made

    rows = [(who, ids) for ids in prompts(tokenizer, args, n) for who in copies]
    timed(args, rows, answer)


def step7(args) -> None:
    """One copy, rows of both arms in one batch, as journal.answers asks for them."""
    from mimic_qlora.llm import chat, generation, loading

    model = load(args, True, loading.unpacked if args.precision[0] == "nf4" else None)
    tokenizer = chat.load_tokenizer((args.work / "base").resolve())
    size = 1 if args.system == "strict" else args.batch_size
    n = min(args.questions, 8) if size == 1 else args.questions

    def answer(rows):
        made = []
        for start in range(0, len(rows), size):
            who, batch = map(list, zip(*rows[start : start + size], strict=True))
            made += generation.answer(model, tokenizer, batch, who, args.new_tokens, size)[0]
        return [a.text for a in made]

    rows = [(who, ids) for ids in prompts(tokenizer, args, n) for who in ("base", "adapter")]
    timed(args, rows, answer)


def continuous(args) -> None:
    """transformers' generate_batch: continuous batching, one pass with the adapter, one without."""
    from mimic_qlora.llm import chat, generation

    model = load(args, True)
    tokenizer = chat.load_tokenizer((args.work / "base").resolve())
    settings = generation.greedy(tokenizer, model, args.new_tokens)

    def answer(rows):
        made = {}
        for who in ("adapter", "base"):
            places = [i for i, row in enumerate(rows) if row[0] == who]
            asked = [rows[i][1] for i in places]
            if who == "base":
                with model.disable_adapter():
                    given = model.generate_batch(
                        asked, generation_config=settings, progress_bar=False
                    )
            else:
                given = model.generate_batch(asked, generation_config=settings, progress_bar=False)
            results = sorted(
                given.values(), key=lambda r: int("".join(filter(str.isdigit, r.request_id)))
            )
            texts = [
                generation.to_answer(tokenizer, r.generated_tokens, settings.eos_token_id).text
                for r in results
            ]
            made |= zip(places, texts, strict=True)
        return [made[i] for i in range(len(rows))]

    rows = [
        (who, ids)
        for ids in prompts(tokenizer, args, args.questions)
        for who in ("base", "adapter")
    ]
    timed(args, rows, answer)


def lm_eval(args) -> None:
    """lm-evaluation-harness' generate_until, one pass with the adapter and one without, from one
    loaded copy.
    """
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    tokenizer = str((args.work / "base").resolve())
    model = HFLM(pretrained=load(args, True), tokenizer=tokenizer, batch_size=args.batch_size)
    settings = {"until": [], "max_gen_toks": args.new_tokens, "do_sample": False}

    def generate(rows):
        asked = [(model.tok_decode(ids, skip_special_tokens=False), settings) for ids in rows]
        requests = [Instance("generate_until", {}, request, i) for i, request in enumerate(asked)]
        return [text.strip() for text in model.generate_until(requests, disable_tqdm=True)]

    def answer(rows):
        places = {
            who: [i for i, row in enumerate(rows) if row[0] == who] for who in ("base", "adapter")
        }
        made = dict(
            zip(places["adapter"], generate([rows[i][1] for i in places["adapter"]]), strict=True)
        )
        with model.model.disable_adapter():
            made |= zip(places["base"], generate([rows[i][1] for i in places["base"]]), strict=True)
        return [made[i] for i in range(len(rows))]

    rows = [
        (who, ids)
        for ids in prompts(model.tokenizer, args, args.questions)
        for who in ("base", "adapter")
    ]
    timed(args, rows, answer)


SYSTEMS = {
    "old": old,
    "step7": step7,
    "strict": step7,
    "continuous": continuous,
    "lm_eval": lm_eval,
}


# ---------------------------------------------------------------- step 6


def steps(store: Path) -> None:
    """Print the time from a subject_id to its context, and from step 6's start to a word."""
    import psutil

    from mimic_qlora.chart.context_settings import ContextSettings
    from mimic_qlora.qa import patient, session
    from mimic_qlora.step.errors import UserError
    from mimic_qlora.subjects import reader

    print("| what | CPU | wall | n |\n| --- | --- | --- | --- |")
    model = ContextSettings.read(store).model
    source = session.load(store, None if model.endswith("SmolLM2-135M-Instruct") else model)
    ids = list(reader.split_of(store))
    walls, cpus = [], []
    for subject_id in ids[:: max(1, len(ids) // 200)]:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            patient.find(source, subject_id, None)
        except UserError:  # a patient without a stay has no usual time
            continue
        walls.append((time.perf_counter() - wall) * 1000)
        cpus.append((time.process_time() - cpu) * 1000)
    late = sorted(cpus)[int(len(cpus) * 0.95)]
    print(f"| the first context, with the index, ms | {cpus[0]:.1f} | {walls[0]:.1f} | 1 |")
    print(
        f"| subject_id to context, median ms | {median(cpus):.1f} (95%: {late:.1f}) "
        f"| {median(walls):.1f} | {len(cpus)} |"
    )
    sys.stdout.flush()

    began = time.perf_counter()
    command = [
        sys.executable,
        ROOT / "qa_by_subject.py",
        "--storage",
        store,
        "--max-new-tokens",
        "8",
    ]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    process.stdin.write(b"random\nI have a bad headache. What should I do?\n:quit\n")
    process.stdin.close()
    heard = b""
    while not heard.partition(b"--- base ---\n")[2]:
        heard += process.stdout.read(1)
    cpu = sum(psutil.Process(process.pid).cpu_times()[:2])
    wall = time.perf_counter() - began
    print(f"| start of step 6 to its first word, s | {cpu:.1f} | {wall:.1f} | 1 |")
    process.kill()


if __name__ == "__main__":
    main()
