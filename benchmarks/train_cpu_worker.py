"""One training run of one system in its own environment, for train_cpu.py.

    python train_cpu_worker.py SYSTEM MODEL_FOLDER PROMPTS.json RESULT.json ROOM

Every system trains LoRA r 16 on all linear layers of the NF4 model for one optimizer step over all
the prompts, from the answers' tokens alone. What is packed is packed into rows of ROOM tokens.
Measured from the step's begin to its end.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "UNSLOTH_DISABLE_STATISTICS": "1"}
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
system, model_folder, prompts_file, result_file, room = sys.argv[1:]
records = json.loads(Path(prompts_file).read_text())
found = {"loss": [], "grad_norm": []}


def timed(base):
    """A callback that notes CPU-seconds and the traces."""

    class Timed(base):
        def on_step_begin(self, args, state, control, **kwargs):
            found.setdefault("began", (time.process_time(), time.time()))

        def on_step_end(self, args, state, control, **kwargs):
            found["ended"] = (time.process_time(), time.time())
            return getattr(super(), "on_step_end", lambda *_, **__: None)(
                args, state, control, **kwargs
            )

        def on_log(self, args, state, control, logs=None, **kwargs):
            for name in ("loss", "grad_norm"):
                if name in logs:
                    found[name].append(float(logs[name]))
            return getattr(super(), "on_log", lambda *_, **__: None)(
                args, state, control, logs=logs, **kwargs
            )

    return Timed


def ours() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from mimic_qlora.llm import chat
    from mimic_qlora.training import loop, packing
    from mimic_qlora.training.settings import TrainSettings

    path = Path(model_folder)
    tokenizer = chat.load_tokenizer(path)
    encoded = [
        packing.encode(tokenizer, row["messages"], "prompts", i) for i, row in enumerate(records)
    ]
    found["tokens"] = sum(len(sample.ids) for sample in encoded)
    found["supervised"] = sum(sample.n_supervised for sample in encoded)
    loop.Report = timed(loop.Report)
    settings = TrainSettings(
        epochs=1,
        lr=1e-3,
        batch_tokens=int(room),
        accumulate=len(records),
        checkpointing="none",
        compute=system.removeprefix("ours-"),
        optimizer="adamw_torch_fused",
        validations=1,
        patience=0,
    )
    work = Path(result_file).with_suffix(".work")
    work.mkdir()
    loop.train(settings, path, "model", {"train": encoded, "validation": encoded[:1]}, work, 1e6)


def theirs(trl_like) -> None:
    """Train by TRL's SFTTrainer.

    `trl_like` gives model, tokenizer, and whether peft still has to be added.
    """
    if "unsloth" in system:
        import unsloth as _  # noqa: F401  it patches TRL, and asks to come first
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    packed, fp32 = "packed" in system, "fp32" in system
    model, tokenizer, add_lora = trl_like(torch.float32 if fp32 else torch.bfloat16)
    rows = [{"prompt": row["messages"][:-1], "completion": row["messages"][-1:]} for row in records]
    config = SFTConfig(
        output_dir=str(Path(result_file).with_suffix(".work")),
        num_train_epochs=1,
        per_device_train_batch_size=1 if packed or "unsloth" in system else 4,
        gradient_accumulation_steps=len(records)
        if packed or "unsloth" in system
        else -(-len(records) // 4),
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        packing=packed,
        max_length=int(room),
        bf16=not fp32,
        use_cpu=True,
        gradient_checkpointing=False,
        optim="adamw_torch_fused",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=42,
        dataset_num_proc=1,
    )
    lora = (
        LoraConfig(r=16, lora_alpha=32, target_modules=LINEAR, task_type="CAUSAL_LM")
        if add_lora
        else None
    )
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=lora,
        callbacks=[timed(TrainerCallback)()],
    )
    trainer.train()


def plain(dtype):
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    four_bit = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    model = AutoModelForCausalLM.from_pretrained(
        model_folder, quantization_config=four_bit, dtype=dtype, device_map="cpu"
    )
    return model, AutoTokenizer.from_pretrained(model_folder), True


def unsloth(dtype):
    from unsloth import FastLanguageModel

    model, tokenizer = FastLanguageModel.from_pretrained(
        model_folder,
        max_seq_length=int(room),
        load_in_4bit=True,
        dtype=dtype,
        device_map="cpu",
        local_files_only=True,
        use_gradient_checkpointing=False,
    )
    model = FastLanguageModel.get_peft_model(
        model, r=16, lora_alpha=32, target_modules=LINEAR, use_gradient_checkpointing=False
    )
    return model, tokenizer, False


if __name__ == "__main__":
    if system.startswith("ours"):
        ours()
    elif system.startswith("trl"):
        theirs(plain)
    else:
        theirs(unsloth)
    found["cpu_s"], found["wall_s"] = (found["ended"][i] - found["began"][i] for i in (0, 1))
    Path(result_file).write_text(json.dumps(found))
