"""The parts of step 5: samples, packs, the loss, the probe, costs computed. On a tiny model in this process."""

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import send_to_device

from helpers.tiny_model import TEMPLATE, write_tiny_model
from helpers.training_runs import PATIENTS, record
from mimic_qlora.llm import chat, finding, loading
from mimic_qlora.step.errors import UserError
from mimic_qlora.training import (
    callbacks,
    cost,
    gradient_check,
    hardware,
    packed_attention,
    packing,
    run,
    trainer,
    validation_loss,
)
from mimic_qlora.training.low_memory import CHUNK, CrossEntropy, SwiGLU, use_swiglu

LORA = SimpleNamespace(rank=4, alpha=8, dropout=0.0, rslora=False)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return chat.load_tokenizer(tiny)


@pytest.fixture(scope="module")
def talks(tokenizer) -> list:
    return [packing.encode(tokenizer, record(s)["messages"], "here", s) for s in PATIENTS]


def packed_model(path, dtype=torch.float32, four_bit=True):
    """The model as step 5 trains it, with LoRA matrices of which none is zero."""
    model = loading.load_base(path, four_bit=four_bit, dtype=dtype)
    packed_attention.use_packed(model)
    use_swiglu(model)
    model = run.add_lora(model, LORA, "tiny")
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return model.train()


@pytest.fixture(scope="module")
def model(tiny):
    return packed_model(tiny)


def on(model, batch: dict) -> dict:
    return send_to_device(batch, next(model.parameters()).device)


def gradients(model, packs: list) -> dict:
    model.zero_grad()
    for pack in packs:
        trainer.token_losses(model, on(model, packing.collate(pack))).sum().backward()
    return {
        name: weight.grad.clone()
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }


# ---------------------------------------------------------------- samples and packs


# as Llama 3's first one: the header of the next answer stands after every conversation
EARLY_TEMPLATE = (
    TEMPLATE.split("{% if add_gen")[0]
    + "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
)


@pytest.mark.parametrize("template", [TEMPLATE, EARLY_TEMPLATE])
def test_exactly_the_answer_and_its_end_token_are_supervised(tmp_path, template):
    tokenizer = chat.load_tokenizer(write_tiny_model(tmp_path, template=template))
    messages = record(10000000)["messages"]
    sample = packing.encode(tokenizer, messages, "here")
    assert (
        tokenizer.decode(sample.ids[sample.n_prompt :])
        == messages[-1]["content"].strip() + "<|eot_id|>"
    )
    assert tokenizer.decode(sample.ids[: sample.n_prompt]).endswith(
        "assistant<|end_header_id|>\n\n"
    )
    assert packing.mark_supervised(tokenizer, sample).endswith("<|eot_id|>⟧")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            TEMPLATE.replace("{% if loop.first %}", "{% if not loop.last %}"),
            "rewrites earlier turns",
        ),
        (TEMPLATE.replace("<|eot_id|>", "\n"), "ends no answer"),
        (
            TEMPLATE.replace(
                "m['content'] | trim", "m['content'] if m['role'] != 'assistant' else ''"
            ),
            "drops the answer",
        ),
    ],
)
def test_a_template_that_hides_drops_or_never_ends_the_answer_is_refused(tmp_path, change, message):
    tokenizer = chat.load_tokenizer(write_tiny_model(tmp_path, template=change))
    with pytest.raises(UserError, match=message):
        packing.encode(tokenizer, record(10000000)["messages"], "prompts/train.jsonl line 1")


def test_every_sample_is_in_one_pack_and_no_pack_overflows(talks):
    longest = max(len(sample.ids) for sample in talks)
    for room in (1, longest, 3 * longest):
        packs = packing.pack(talks, room)
        assert sorted(sample for pack in packs for sample in pack) == sorted(talks)
        rows = [packing.collate(pack)["input_ids"].numel() for pack in packs]
        assert rows == [packing.row_length(pack) for pack in packs]
        assert all(len(pack) == 1 or row <= room for pack, row in zip(packs, rows, strict=True))
    assert len(packs) < len(talks) / 2


def about_charts(tokenizer) -> list:
    """Three questions about each of four charts; what comes before the chart is the same in all."""
    turns = [record(s)["messages"] for s in PATIENTS]
    talks = []
    for chart in range(4):
        for n in range(3):
            system, question, answer = turns[(chart + 5 * n) % len(turns)]
            question = {
                "role": "user",
                "content": f"Age {20 + chart}. {'Diabetes. ' * 9}{question['content']} {n}",
            }
            talks.append(packing.encode(tokenizer, [system, question, answer], "here", chart))
    return talks


def test_questions_about_one_chart_share_a_row_in_which_the_chart_stands_once(tokenizer):
    talks = about_charts(tokenizer)
    rows = [packing.row_length(talks[n : n + 3]) for n in range(0, 12, 3)]
    packs = packing.pack(talks[::-1], max(rows))
    assert sorted(sorted(sample.patient for sample in pack) for pack in packs) == [
        [n] * 3 for n in range(4)
    ]
    assert rows[0] < 0.7 * sum(len(sample.ids) for sample in talks[:3])
    assert packing.totals(packs)[2] == sum(sample.n_supervised for sample in talks)
    (together,) = packing.pack(talks, 10_000)
    assert packing.row_length(together) < sum(rows)  # the start of all of them stands once


def test_packs_that_fill_up_for_other_processes_teach_nothing(talks, model):
    packs = packing.pack(talks[:3], 1, n_processes=2)
    assert len(packs) == 4 and packs[:3] == packing.pack(talks[:3], 1)
    found = gradients(model, packs[3:])
    assert found and not any(gradient.any() for gradient in found.values())


# ---------------------------------------------------------------- the loss and its gradients


def test_packed_loss_and_gradients_equal_unpacked_ones_of_the_plain_model(tiny, talks):
    """The reference knows nothing of packs: transformers' own causal attention and full logits, a sample at a time."""
    model = loading.load_base(tiny, four_bit=False).float()
    loss = 0
    for sample in talks:
        ids = torch.tensor([sample.ids], device=model.device)
        labels = ids.clone()
        labels[0, : sample.n_prompt] = -100
        loss = (
            loss + model(input_ids=ids, labels=labels, use_cache=False).loss * sample.n_supervised
        )
    loss.backward()
    expected = model.model.layers[0].mlp.up_proj.weight.grad.clone()
    model.zero_grad()
    packed_attention.use_packed(model)
    use_swiglu(model)
    assert all("forward" in vars(layer.mlp) for layer in model.model.layers)
    packed = trainer.token_losses(model, on(model, packing.collate(talks))).sum()
    packed.backward()
    assert packed.item() == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(
        model.model.layers[0].mlp.up_proj.weight.grad, expected, rtol=1e-3, atol=1e-3
    )


def test_nothing_leaks_from_one_sample_of_a_pack_into_another(model, talks):
    with torch.no_grad():
        alone = trainer.token_losses(model, on(model, packing.collate([talks[1]])))
        for neighbour in talks[2:4]:
            pack = on(model, packing.collate([neighbour, talks[1], neighbour]))
            among = trainer.token_losses(model, pack)[neighbour.n_supervised :][
                : talks[1].n_supervised
            ]
            torch.testing.assert_close(among, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_samples_share_is_computed_once_and_changes_neither_loss_nor_gradients(
    tiny, tokenizer, dtype
):
    model, talks = packed_model(tiny, dtype), about_charts(tokenizer)
    (together,) = packing.pack(talks, 10_000)
    with torch.autocast(
        next(model.parameters()).device.type, torch.bfloat16, enabled=dtype is torch.bfloat16
    ):
        with torch.no_grad():
            losses = trainer.token_losses(model, on(model, packing.collate(together)))
            alone = [
                trainer.token_losses(model, on(model, packing.collate([sample])))
                for sample in together
            ]
        found, expected = (
            gradients(model, [together]),
            gradients(model, [[sample] for sample in together]),
        )
    tolerance = 1e-5 if dtype is torch.float32 else 0.05
    torch.testing.assert_close(losses, torch.cat(alone), rtol=tolerance, atol=tolerance)
    for name in expected:
        difference = (found[name] - expected[name]).norm() / expected[name].norm()
        assert difference < tolerance, (name, difference)


def test_a_kernel_that_lets_the_wrong_tokens_attend_is_not_used(monkeypatch):
    """The GPU and its kernel are made up: there is none where the tests run."""

    def kernel(query, key, value, scale, diagonal, **_):
        query, key, value = (tensor.transpose(0, 1)[None] for tensor in (query, key, value))
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril(diagonal)
        attend = torch.nn.functional.scaled_dot_product_attention
        return attend(query, key, value, mask, scale=scale, enable_gqa=True)[0].transpose(0, 1)

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    for diagonal, right in ((5, True), (0, False), (6, False)):
        monkeypatch.setattr(packed_attention, "varlen_attn", partial(kernel, diagonal=diagonal))
        assert packed_attention.has_varlen.__wrapped__(torch.device("cpu"), torch.bfloat16) is right


@pytest.mark.parametrize("n", [0, 1, CHUNK, 2 * CHUNK + 5])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_cross_entropy_equals_pytorchs_own(n, dtype, tolerance):
    torch.manual_seed(0)
    drawn, targets, weights = 4 * torch.randn(n, 300), torch.randint(300, (n,)), torch.rand(n)

    def plain(logits, targets):
        return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")

    found = []
    for function in (CrossEntropy.apply, plain):
        logits = drawn.to(dtype, copy=True).requires_grad_()
        losses = function(logits * 1, targets)  # what is overwritten may be no leaf
        (losses * weights).sum().backward()
        found.append((losses, logits.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    given = drawn.to(dtype, copy=True)
    CrossEntropy.apply(given, targets)
    assert torch.equal(given, drawn.to(dtype)), "what needs no gradient is left alone"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_swiglu_equals_pytorchs_own_to_the_last_bit(dtype):
    torch.manual_seed(0)
    found = []
    drawn = [3 * torch.randn(5, 70), torch.randn(5, 70), torch.randn(5, 70)]
    for function in (SwiGLU.apply, lambda gate, up: torch.nn.functional.silu(gate) * up):
        gate, up = (tensor.to(dtype).requires_grad_() for tensor in drawn[:2])
        output = function(gate, up)
        output.backward(drawn[2].to(dtype))
        found.append((output, gate.grad, up.grad))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))


@pytest.mark.parametrize("before", [0, 7, packed_attention.BLOCK + 3])
@pytest.mark.parametrize("n", [1, packed_attention.BLOCK, 2 * packed_attention.BLOCK + 5])
def test_attention_in_blocks_equals_pytorchs_own(n, before):
    torch.manual_seed(0)
    found = []
    tensors = [
        torch.randn(1, heads, length, 16)
        for heads, length in ((6, n), (2, before + n), (2, before + n))
    ]
    for attend in (packed_attention.in_blocks, packed_attention.in_one):
        inputs = [tensor.clone().requires_grad_() for tensor in tensors]
        output = attend(*inputs, 0.3)
        (output * torch.arange(1.0, n + 1)[:, None]).sum().backward()
        found.append([output, *(tensor.grad for tensor in inputs)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(
            ours, theirs, rtol=1e-4, atol=1e-6 + 1e-4 * theirs.abs().max().item()
        )


def test_gradients_through_4_bit_weights_equal_those_of_a_dequantised_copy(tiny, talks, model):
    from bitsandbytes.functional import dequantize_4bit

    reference = packed_model(tiny, four_bit=False)
    ours = {n.replace(".base_layer", ""): w for n, w in model.named_parameters()}
    with torch.no_grad():
        for name, weight in reference.named_parameters():
            source = ours[name.replace(".base_layer", "")]
            state = getattr(source, "quant_state", None)
            weight.copy_(dequantize_4bit(source.data, state) if state else source)
    found, expected = gradients(model, [talks[:4]]), gradients(reference, [talks[:4]])
    trainable = [name for name in expected if "lora_" in name]
    assert len(trainable) == len(found) == 2 * 2 * 7
    for name in trainable:
        torch.testing.assert_close(
            found[name], expected[name], rtol=1e-3, atol=1e-4 * expected[name].norm().item()
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_the_same_before_and_after_an_evaluation(tiny, talks, dtype):
    """The trap of bitsandbytes on CPUs with AVX512-BF16 (see `guard_linear4bit`), in the model of step 5."""
    model = packed_model(tiny, dtype)
    with torch.autocast(
        next(model.parameters()).device.type, torch.bfloat16, enabled=dtype is torch.bfloat16
    ):
        before = gradients(model, [talks[:3]])
        model.eval()
        with torch.no_grad():
            trainer.token_losses(model, on(model, packing.collate(talks[3:6])))
        model.train()
        after = gradients(model, [talks[:3]])
    assert before.keys() == after.keys() and all(
        torch.equal(before[name], after[name]) for name in before
    )


def test_checkpointed_layers_give_the_same_gradients(model, talks):
    expected = gradients(model, [talks[:3]])
    for every in (1, 2, 0):
        gradient_check.set_checkpointing(model, every)
        layers = [
            m.gradient_checkpointing
            for m in model.modules()
            if type(m).__name__ == "LlamaDecoderLayer"
        ]
        assert layers == [bool(every) and i % every == 0 for i in range(2)]
        found = gradients(model, [talks[:3]])
        assert all(torch.equal(found[name], expected[name]) for name in expected)


# ---------------------------------------------------------------- the probe


def test_the_probe_passes_a_sound_model_and_leaves_it_as_it_was(tiny, talks):
    model = run.add_lora(loading.load_base(tiny, dtype=torch.float32), LORA, "tiny").train()
    packed_attention.use_packed(model)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    batch, state = on(model, packing.collate(talks[:2])), torch.get_rng_state()
    gradient_check.two_steps(model, lambda: trainer.token_losses(model, batch).mean())
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())
    assert torch.equal(state, torch.get_rng_state()) and all(
        w.grad is None for w in model.parameters()
    )


def test_the_probe_names_a_matrix_that_would_never_learn_and_a_gradient_that_is_no_number(
    tiny, talks
):
    model = packed_model(tiny)
    batch = on(model, packing.collate(talks[:2]))
    down = next(
        m for n, m in model.named_modules() if n.endswith("layers.1.mlp.down_proj.lora_A.default")
    )
    hook = down.register_forward_hook(lambda module, inputs, output: output.detach())
    with pytest.raises(
        UserError, match="1 of 28 adapter matrices get no gradient, .*layers.1.mlp.down_proj.lora_A"
    ):
        gradient_check.two_steps(model, lambda: trainer.token_losses(model, batch).mean())
    hook.remove()
    with pytest.raises(UserError, match="not finite"):
        gradient_check.two_steps(
            model, lambda: trainer.token_losses(model, batch).mean() * math.inf
        )


def test_the_probe_has_all_of_its_batch_where_the_model_is(talks, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        trainer, "token_losses", lambda model, batch: seen.update(batch) or torch.zeros(1)
    )
    monkeypatch.setattr(gradient_check, "set_checkpointing", lambda model, every: None)
    monkeypatch.setattr(gradient_check, "two_steps", lambda model, loss, scale: loss())
    elsewhere = torch.nn.Linear(1, 1, device="meta")
    run.prepare(elsewhere, SimpleNamespace(checkpointing="none"), [talks[:2]], torch.float32)
    tensors = [
        value for value in (*seen.values(), *seen["layout"].values()) if torch.is_tensor(value)
    ]
    assert len(tensors) == 6 and all(tensor.is_meta for tensor in tensors)


def test_in_training_the_logits_are_no_float32_copy(tiny, talks, tmp_path, monkeypatch):
    seen = []
    apply = CrossEntropy.apply

    def spied(logits, targets):
        made, place = logits._base, logits.data_ptr()
        made.register_hook(lambda gradient: seen.append((made.dtype, gradient.data_ptr() == place)))
        return apply(logits, targets)

    monkeypatch.setattr(run, "CrossEntropy", SimpleNamespace(apply=spied))
    settings = dict(
        per_device_train_batch_size=1,
        max_steps=2,
        bf16=True,
        use_cpu=not hardware.gpu(),
        report_to="none",
    )
    settings = trainer.transformers.TrainingArguments(
        tmp_path, remove_unused_columns=False, **settings
    )
    model = packed_model(tiny, torch.bfloat16)
    trainer.PackedTrainer(model, settings, [talks[:2], talks[2:4]], [], [], 1.0, 1.0).train()
    assert seen == [(torch.bfloat16, True)] * 2


def test_checkpointing_goes_up_until_it_fits(monkeypatch):
    """The GPU and its memory are made up: there is none where the tests run."""
    monkeypatch.setattr(hardware, "gpu", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=100)
    )
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: held[tried[-1]])
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    held, tried = {}, []

    def step(every):
        tried.append(every)
        if held[every] is None:
            raise torch.OutOfMemoryError

    for memory, chosen in (({0: 80}, 0), ({0: 95, 2: 60}, 2), ({0: None, 2: 99, 1: 95}, 1)):
        held.update(memory)
        assert gradient_check.choose_checkpointing("auto", step) == chosen
    held.update({0: None, 2: None, 1: None})
    with pytest.raises(UserError, match="--batch-tokens"):
        gradient_check.choose_checkpointing("auto", step)
    assert gradient_check.choose_checkpointing("3", lambda every: None) == 3


# ---------------------------------------------------------------- what is computed


def test_costs_are_those_of_the_tiny_model_and_of_llama_3_8b(tiny, model):
    shape = cost.shape(finding.read_json(tiny / "config.json"))
    trained = sum(w.numel() for n, w in model.named_parameters() if "lora_" in n)
    assert 4 * shape.lora_per_rank == trained
    plain = loading.load_base(tiny, four_bit=False)
    assert shape.linear + shape.embeddings == sum(
        w.numel() for w in plain.parameters() if w.ndim == 2
    )
    llama = dict(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32
    )
    llama |= dict(num_key_value_heads=8, vocab_size=128256)
    shape = cost.shape(llama)
    assert (
        shape.linear + shape.embeddings == 8_029_995_008 and 16 * shape.lora_per_rank == 41_943_040
    )
    needed = cost.flops_per_token(shape, 16, 1024, 1.0)
    assert needed == pytest.approx(31.9e9, rel=0.01)
    assert needed + cost.recomputed_flops_per_token(shape, 16, 1024, 1) == pytest.approx(
        46.5e9, rel=0.01
    )
    assert cost.fixed_bytes(shape, 16) / 2**30 == pytest.approx(5.96, abs=0.05)


def test_the_interval_of_a_ratio_holds_the_truth_in_19_of_20_draws():
    import numpy

    draw, held = numpy.random.default_rng(0), 0
    for _ in range(400):
        sizes = draw.integers(50, 400, 12)
        value, low, high = validation_loss.ratio(
            list(sizes * (1.5 + 0.4 * draw.standard_normal(12))), list(sizes)
        )
        held += low <= 1.5 <= high
    assert 0.91 < held / 400 < 0.985
    assert all(map(math.isnan, validation_loss.ratio([3.0], [2.0])[1:]))


def test_bits_per_byte_of_a_patient_are_summed_before_they_are_divided():
    talks = [
        packing.Sample([0] * 4, 2, patient, n_bytes)
        for patient, n_bytes in ((1, 10), (2, 30), (1, 20))
    ]
    losses = validation_loss.by_patient(
        [*talks, packing.Sample([0], 1)], [math.log(2) * n for n in (5, 30, 10)] + [0]
    )
    assert losses.keys() == {1, 2} and losses[1][1:] == [4, 30]
    halved = {patient: [row[0] / 2, *row[1:]] for patient, row in losses.items()}
    found = validation_loss.bits_per_byte(losses, halved)
    assert found["base"][0] == pytest.approx(45 / 60) and found["difference"][0] == pytest.approx(
        -22.5 / 60
    )


def test_training_ends_after_as_many_validations_without_a_gain_as_it_has_patience():
    def state(*losses):
        return SimpleNamespace(
            log_history=[{"loss": 1.0}, *({"eval_loss": loss} for loss in losses)]
        )

    assert not callbacks.stopped_early(state(), 2)
    assert not callbacks.stopped_early(state(3, 2, 2.5), 2)
    assert callbacks.stopped_early(state(3, 2, 2.5, 2.1), 2)
    assert not callbacks.stopped_early(state(3, 2, 2.5, 1.9), 2)
    assert not callbacks.stopped_early(state(3, 4, 5, 6, 7), 0)


def test_a_gpu_without_bfloat16_gets_float16(monkeypatch):
    """The GPU is made up: there is none where the tests run."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    assert hardware.dtype("auto") is torch.float16
    assert hardware.peak_flops(torch.float16)[0] == 65e12
    with pytest.raises(UserError, match="T4 has no bfloat16 of its own: give --compute fp16"):
        hardware.dtype("bf16")


def test_a_gpu_that_pytorch_cannot_use_is_named(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="sees no GPU"):
        hardware.check_driver()
