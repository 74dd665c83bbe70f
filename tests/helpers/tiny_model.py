"""A tiny Llama with random weights and a tokenizer that behaves like that of Llama 3."""

from pathlib import Path

from mimic_qlora.llm import offline

SPECIAL = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|reserved_special_token_1|>",
]


# as Llama 3.2's: it writes today's date unless it is given one
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{% if loop.first %}Date: {{ date_string if date_string is defined "
    "else strftime_now('%d %b %Y %H:%M:%S') }}\n"
    "{% endif %}"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


TALK = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "My head hurts since this morning."},
]


def write_tiny_model(
    folder: Path, seed: int = 0, template: str | None = TEMPLATE, **generation
) -> Path:
    """Write a Llama of two small layers with random weights and a tokenizer like Llama 3's."""
    transformers = offline.quiet_transformers()
    import torch
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    base = Tokenizer(BPE())
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    base.train_from_iterator(
        [], BpeTrainer(special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    )
    # Llama 3's tokenizer puts a BOS before every text: with the template's own, that would make two
    base.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=base, bos_token=SPECIAL[0], eos_token=SPECIAL[1], chat_template=template
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=0.3,
    )
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    model.generation_config = transformers.GenerationConfig(eos_token_id=1, **generation)
    model.save_pretrained(folder)
    return folder
