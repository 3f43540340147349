"""VLMo's checkpoints: all of a file lands, by VLMo's own names, and comes back as it was."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.factories import of_kind
from tests.hub.vlmo_file import (
    ANSWERS,
    FORMS,
    HEADS,
    HEADS_OF,
    INDICES,
    INNER,
    KNOWN,
    LAYERS,
    SIZE,
    TEXTS,
    WIDTH,
    WORDS,
    beit_weights,
    indices,
    options,
    vlmo_weights,
    write_file,
)
from vle_lightning.cli import main
from vle_lightning.errors import UserError
from vle_lightning.export import find_task
from vle_lightning.hub.architecture import to_plain
from vle_lightning.hub.pretrained import from_pretrained, read_pretrained
from vle_lightning.hub.vlmo import FILE
from vle_lightning.models.mome import MoME, MoMEConfig
from vle_lightning.models.relative_bias import resize_bias_table
from vle_lightning.tasks.base import VisionLanguageTask
from vle_lightning.tasks.dual_retrieval import DualRetrievalTask
from vle_lightning.tasks.nlvr2 import NLVR2Task
from vle_lightning.tasks.pretrain import PretrainTask
from vle_lightning.tasks.vqa import VQATask

UNUSED = "text_embeddings.position_embeddings.weight"
CONFIG = MoMEConfig(
    image_size=SIZE,
    patch_size=8,
    vocab_size=WORDS,
    width=WIDTH,
    layers=LAYERS,
    heads=HEADS,
    intermediate=INNER,
    fusion_layers=1,
    text_positions=KNOWN,
)
TASKS: dict[str, type[VisionLanguageTask]] = {
    "stage 3": PretrainTask,
    "vqa": VQATask,
    "nlvr2": NLVR2Task,
    "retrieval": DualRetrievalTask,
}


def of_stage(stage: str, **sizes: Any) -> dict[str, Tensor]:  # noqa: ANN401 (of a file)
    return vlmo_weights(*HEADS_OF[stage], types=3 if stage == "nlvr2" else 2, **sizes)


def written(folder: Path) -> dict[str, Tensor]:
    content: dict[str, dict[str, Tensor]] = torch.load(folder / FILE, weights_only=True)
    return content["state_dict"]


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert [key for key, value in wanted.items() if not torch.equal(found[key], value)] == []
    assert [key for key, value in wanted.items() if found[key].dtype != value.dtype] == []


# Reading


@pytest.mark.parametrize("form", FORMS)
def test_every_tensor_lands_and_the_rest_is_named(form: str, tmp_path: Path) -> None:
    weights = of_stage("stage 3") | indices()  # which tell the size of the table in a plain file
    encoder, report = from_pretrained(write_file(tmp_path / "vlmo.pt", weights, form))
    assert encoder.config == CONFIG
    told = {"text_embeddings.position_ids", *INDICES, f"{UNUSED}, which no relative model adds"}
    assert set(report.dropped) == told | {"mlm_score", "itm_score", "itc", "itc_pair"}
    assert report.tensors == len(encoder.state_dict())
    aside = (UNUSED, "text_embeddings.position_ids", *INDICES)
    live = {key: value for key, value in weights.items() if not key.startswith((*aside, *HEADS_OF["stage 3"], "logit"))}
    assert (report.tensors, report.parameters) == (len(live), sum(value.numel() for value in live.values()))
    state = encoder.state_dict()
    assert torch.equal(state["image.class_embedding"], weights["transformer.cls_token"][0, 0])
    assert torch.equal(state["blocks.2.experts.pair.fc1.weight"], weights["transformer.blocks.2.mlp_vl.fc1.weight"])
    assert torch.equal(state["blocks.1.experts.image.norm.bias"], weights["transformer.blocks.1.norm2_imag.bias"])
    assert torch.equal(state["position_bias"], weights["relative_position_bias_table"])


def test_a_plain_file_without_indices_has_the_published_196_tokens(tmp_path: Path) -> None:
    weights = vlmo_weights()
    rows = (2 * 4 - 1) ** 2 + 3 + 2 * 196 + 2
    weights["relative_position_bias_table"] = torch.randn(rows, LAYERS * HEADS)
    encoder, _ = from_pretrained(write_file(tmp_path / "vlmo.pt", weights, "plain"))
    assert of_kind(MoME, encoder).config == replace(CONFIG, text_positions=196)
    with pytest.raises(UserError, match=r"table of 94 rows is of no square grid with 196 tokens$"):
        from_pretrained(write_file(tmp_path / "other.pt", vlmo_weights(), "plain"))


def test_a_base_plus_has_absolute_positions_and_no_scale(tmp_path: Path) -> None:
    encoder, _ = from_pretrained(write_file(tmp_path / "vlmo.pt", vlmo_weights(relative=False)))
    assert encoder.config == replace(CONFIG, positions="absolute", layer_scale=None, text_positions=TEXTS)
    with pytest.raises(UserError, match=r"plain.pt has no table of relative positions.*how many heads it has$"):
        from_pretrained(write_file(tmp_path / "plain.pt", vlmo_weights(relative=False), "plain"))


def test_heads_that_no_tensor_tells_have_to_agree(tmp_path: Path) -> None:
    file = write_file(tmp_path / "vlmo.pt", vlmo_weights(relative=False))
    config = replace(CONFIG, positions="absolute", layer_scale=None, text_positions=TEXTS, heads=2)
    with pytest.raises(UserError, match="architecture.heads is 4, the model has 2"):
        VQATask(config, answers=2, init=str(file))


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("transformer.blocks.1.attn.qkv.weight", "transformer.blocks.1.attn.qkv.weight is missing"),
        ("transformer.blocks.2.mlp_vl.fc2.bias", "transformer.blocks.2.mlp_vl.fc2.bias is missing"),
        ("transformer.cls_token", "transformer.cls_token is missing"),
        ("transformer.patch_embed.proj.weight", "transformer.patch_embed.proj.weight is missing"),
        ("text_embeddings.word_embeddings.weight", "text_embeddings.word_embeddings.weight is missing"),
        ("token_type_embeddings.weight", "token_type_embeddings.weight is missing"),
        ("pooler.dense.bias", "pooler.dense.bias is missing"),
        ("mlm_score.bias", "mlm_score.bias is missing"),
        ("logit_vl_scale", "logit_vl_scale is missing"),
        ("itm_score.fc.weight", "itm_score.fc.weight is missing"),
    ],
)
def test_a_missing_tensor_is_told_by_vlmos_name(key: str, told: str, tmp_path: Path) -> None:
    weights = of_stage("stage 3")
    del weights[key]
    with pytest.raises(UserError) as caught:
        PretrainTask.from_pretrained(write_file(tmp_path / "vlmo.pt", weights))
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("key", "shape", "told"),
    [
        ("transformer.blocks.1.gamma_1", (7,), "transformer.blocks.1.gamma_1 is (7,), the model has (16,)"),
        ("transformer.cls_token", (16,), "transformer.cls_token is (16,); its first 2 sizes are 1 there"),
        ("transformer.patch_embed.proj.weight", (16, 3), "proj.weight is (16, 3), of 4 dimensions there"),
        ("relative_position_bias_table", (93, 12), "a relative position table of 93 rows is of no square grid"),
        ("relative_position_bias_table", (94, 13), "relative_position_bias_table is (94, 13), the model has (94, 12)"),
        ("itm_score.fc.bias", (3,), "itm_score.fc.bias is (3,), the model has (2,)"),
        ("itc_text_proj.fc.weight", (9, 16), "itc_text_proj.fc.weight is (9, 16), the model has (16, 16)"),
        ("transformer.blocks.1.mlp_sound.fc1.bias", (1,), "transformer.blocks.1.mlp_sound.fc1.bias is unknown here"),
        ("surprise", (1,), "surprise is unknown here"),
        ("relative_position_index", (17, 17), "relative_position_index is not the order of positions that VLMo's"),
        ("text_imag_relative_position_index", (9, 9), "text_imag_relative_position_index is not the order of posi"),
    ],
)
def test_a_tensor_that_does_not_fit_is_told_by_vlmos_name(
    key: str, shape: tuple[int, ...], told: str, tmp_path: Path
) -> None:
    weights = {**of_stage("stage 3"), key: torch.zeros(shape)}
    with pytest.raises(UserError) as caught:
        PretrainTask.from_pretrained(write_file(tmp_path / "vlmo.pt", weights))
    assert told in str(caught.value)


class Runs:
    """An object that would be made by running its class."""


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    weights = vlmo_weights()
    torch.save({"state_dict": weights, "trainer": Runs()}, tmp_path / "code.pt")
    whole = write_file(tmp_path / "vlmo.pt", weights).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    torch.save({**weights, "epoch": 3}, tmp_path / "mixed.pt")
    told = {
        "code.pt": "it is refused: opening it could run code",
        "cut.pt": "cut.pt",
        "mixed.pt": "holds other things than tensors under epoch",
    }
    for name, sentence in told.items():
        with pytest.raises(UserError) as caught:
            from_pretrained(tmp_path / name)
        assert sentence in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_beit_is_told_how_to_be_used(tmp_path: Path) -> None:
    torch.save({"model": beit_weights("each")}, tmp_path / "beit.pth")
    with pytest.raises(UserError, match=r"^model.init: .*beit.pth is a BEiT, of images alone; .* by image_init$"):
        VQATask(CONFIG, answers=2, init=str(tmp_path / "beit.pth"))


# The tasks


@pytest.mark.parametrize("stage", TASKS)
@pytest.mark.parametrize("form", ["indices", "relative", "absolute"])
def test_a_task_comes_back_from_its_file_and_goes_there_bit_by_bit(stage: str, form: str, tmp_path: Path) -> None:
    weights = of_stage(stage, relative=form != "absolute") | (indices() if form == "indices" else {})
    kind = TASKS[stage]
    task = kind.from_pretrained(write_file(tmp_path / "source.pt", weights))
    assert task.new_heads == (("itm_score",) if stage == "retrieval" else ())
    task.save_pretrained(tmp_path / "again", layout="vlmo")
    assert_equal(written(tmp_path / "again"), weights)
    assert find_task(read_pretrained(tmp_path / "again")) is kind
    back = kind.from_pretrained(tmp_path / "again")
    assert back.model.config == task.model.config
    if stage != "retrieval":  # through our own layout, too, with the table that nothing reads
        task.save_pretrained(tmp_path / "own")
        own = kind.from_pretrained(tmp_path / "own")
        assert_equal(own.state_dict(), task.state_dict())
        own.save_pretrained(tmp_path / "third", layout="vlmo")
        assert_equal(written(tmp_path / "third"), weights)


def test_a_checkpoint_of_a_run_carries_what_nothing_reads(tmp_path: Path) -> None:
    weights = of_stage("vqa") | indices()
    task = VQATask.from_pretrained(write_file(tmp_path / "source.pt", weights))
    checkpoint: dict[str, Any] = {"state_dict": task.state_dict(), "epoch": 1}
    task.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "best.ckpt")
    VQATask.from_pretrained(tmp_path / "best.ckpt").save_pretrained(tmp_path / "again", layout="vlmo")
    assert_equal(written(tmp_path / "again"), weights)
    resumed = VQATask(task.model.config, answers=ANSWERS)
    resumed.on_load_checkpoint(checkpoint)
    assert resumed.carried.keys() == task.carried.keys()


def test_pretraining_reads_its_objectives_off_the_heads(tmp_path: Path) -> None:
    task = PretrainTask.from_pretrained(write_file(tmp_path / "vlmo.pt", of_stage("stage 3")))
    assert task.weights == {"itm_hard": 1.0, "mlm": 1.0, "itc": 1.0}
    assert task.options["tied"] is False


def classify(weights: dict[str, Tensor], head: str, pooled: Tensor) -> Tensor:
    """Compute a classifier of VLMo's: linear, layer norm, GELU, linear."""
    states = F.linear(pooled, weights[f"{head}.0.weight"], weights[f"{head}.0.bias"])
    states = F.gelu(F.layer_norm(states, states.shape[-1:], weights[f"{head}.1.weight"], weights[f"{head}.1.bias"]))
    return F.linear(states, weights[f"{head}.3.weight"], weights[f"{head}.3.bias"])


def test_true_keeps_its_meaning_in_both_directions(tmp_path: Path) -> None:
    weights = of_stage("nlvr2")
    task = of_kind(NLVR2Task, NLVR2Task.from_pretrained(write_file(tmp_path / "vlmo.pt", weights)))
    pooled = torch.randn(3, 2 * WIDTH)
    wanted = classify(weights, "nlvr2_classifier", pooled)  # false, true
    torch.testing.assert_close(task.head(pooled)[:, task.classes.index("true")], wanted[:, 1])
    other = NLVR2Task(task.model.config, classes=list(reversed(task.classes)))
    with pytest.raises(UserError, match="VLMo's layout has no place for the classes"):
        other.save_pretrained(tmp_path / "other", layout="vlmo")


def test_nlvr2_starts_its_second_image_from_the_first_and_keeps_a_trained_one(tmp_path: Path) -> None:
    weights = of_stage("stage 3")
    file, config = write_file(tmp_path / "vlmo.pt", weights), replace(CONFIG, token_types=3)
    task = NLVR2Task(config, init=str(file))
    assert "resized the token types from 2 to 3" in str(task.load_report)
    assert torch.equal(task.model.token_types.weight, weights["token_type_embeddings.weight"][[0, 1, 1]])
    tuned = of_stage("nlvr2")
    again = NLVR2Task(config, init=str(write_file(tmp_path / "tuned.pt", tuned)))
    assert torch.equal(again.model.token_types.weight, tuned["token_type_embeddings.weight"])
    with pytest.raises(UserError, match=r"model.architecture.token_types is 2; NLVR2 needs 3"):
        NLVR2Task(CONFIG, init=str(file))


def test_retrieval_starts_from_pairs_and_leaves_the_second_contrast(tmp_path: Path) -> None:
    task = DualRetrievalTask(CONFIG, init=str(write_file(tmp_path / "vlmo.pt", of_stage("stage 3"))))
    assert task.new_heads == ()
    assert "left out mlm_score, itc_pair, text_embeddings" in str(task.load_report)


def test_pairs_start_from_a_file_of_texts_alone_with_experts_of_their_own(tmp_path: Path) -> None:
    weights = vlmo_weights("mlm_score", pairs=0) | indices()
    file = write_file(tmp_path / "stage2.pt", weights)
    objectives = {"itc": 1.0, "itm_hard": 1.0, "mlm": 0.25}
    torch.manual_seed(3)
    fresh = CONFIG.build().state_dict()
    torch.manual_seed(3)
    task = PretrainTask(CONFIG, objectives, tied=False, init=str(file))
    report = str(task.load_report)
    assert "newly made: itm_score, itc, itc_pair, the experts of pairs" in report
    state = task.model.state_dict()
    pairs = [key for key in state if ".experts.pair." in key]
    assert len(pairs) == 6
    assert all(torch.equal(state[key], fresh[key]) for key in pairs)  # as drawn
    loaded = sum(value.numel() for key, value in state.items() if key not in pairs) + sum(
        value.numel() for key, value in weights.items() if key.startswith("mlm_score")
    )
    assert f"loaded {loaded:,} parameters" in report


def test_a_file_of_stage_two_is_exported_as_it_was(tmp_path: Path) -> None:
    weights = vlmo_weights("mlm_score", pairs=0) | indices()
    task = PretrainTask.from_pretrained(write_file(tmp_path / "stage2.pt", weights))
    task.save_pretrained(tmp_path / "again", layout="vlmo")
    assert_equal(written(tmp_path / "again"), weights)


# Other sizes


def test_absolute_text_positions_are_cut_and_never_grown(tmp_path: Path) -> None:
    weights = vlmo_weights("vqa_classifier", relative=False)
    file = write_file(tmp_path / "vlmo.pt", weights)
    config = replace(CONFIG, positions="absolute", layer_scale=None, text_positions=7)
    task = VQATask(config, answers=ANSWERS, init=str(file))
    assert "resized the text positions from 12 to 7 tokens" in str(task.load_report)
    assert torch.equal(task.model.state_dict()["text.positions.weight"], weights[UNUSED][:7])
    task.save_pretrained(tmp_path / "again", layout="vlmo")
    assert written(tmp_path / "again")["text_embeddings.position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 6]]
    with pytest.raises(UserError, match="architecture.text_positions is 12, the model has 13"):
        VQATask(replace(config, text_positions=13), answers=ANSWERS, init=str(file))


@pytest.mark.parametrize("relative", [True, False])
def test_pictures_of_another_size_resize_the_tables_and_are_told(relative: bool, tmp_path: Path) -> None:
    weights = vlmo_weights("vqa_classifier", relative=relative) | (indices() if relative else {})
    task = VQATask.from_pretrained(write_file(tmp_path / "vlmo.pt", weights), image_size=48)
    assert "resized the image encoder's positions from 32 to 48 pixels" in str(task.load_report)
    assert task.model.config.image_size == 48
    task.save_pretrained(tmp_path / "larger", layout="vlmo")
    larger = written(tmp_path / "larger")
    if relative:
        table = weights["relative_position_bias_table"]
        assert torch.equal(larger["relative_position_bias_table"], resize_bias_table(table, 4, 6))
        made = indices(side=6)
        assert all(torch.equal(larger[name], made[name]) for name in INDICES)  # of today's pictures
    else:
        assert larger["transformer.pos_embed"].shape == (1, 37, WIDTH)
    back = VQATask.from_pretrained(tmp_path / "larger")
    assert_equal(back.state_dict(), task.state_dict())


def test_a_relative_table_does_not_shrink(tmp_path: Path) -> None:
    file = write_file(tmp_path / "vlmo.pt", vlmo_weights(size=48))
    with pytest.raises(UserError, match=r"^model.init: .*for 48 pixels cannot shrink to 32: set model.architecture.im"):
        VQATask(CONFIG, answers=2, init=str(file))
    assert VQATask(replace(CONFIG, image_size=48), answers=2, init=str(file)).model.config.image_size == 48


def test_pictures_of_another_size_than_the_relative_table_are_refused() -> None:
    model = CONFIG.build()
    with pytest.raises(UserError, match="a picture has 48 x 48 pixels, but the model relative positions for 32 x 32"):
        model.encode_image(torch.zeros(1, 3, 48, 48))


# What VLMo's layout has no place for


@pytest.mark.parametrize(
    ("task", "told"),
    [
        (lambda: PretrainTask(CONFIG, {"pbc": 1.0}), "no place for the head pbc_classifier"),
        (lambda: PretrainTask(CONFIG, {"mlm": 1.0}), r"mlm_score.transform.3.*the head of model.tied: false"),
        (lambda: VQATask("tiny", answers=2), "VLMo's layout holds a mome, not a dual_stream"),
        (lambda: VQATask(replace(CONFIG, shared_experts=True), answers=2), r"model.architecture.shared_experts \(True"),
        (lambda: VQATask(replace(CONFIG, layer_norm_eps=1e-5), answers=2), r"layer_norm_eps \(1e-05\)"),
        (lambda: VQATask(CONFIG, answers=2, blind="image"), "blind=image has no form in VLMo's layout"),
    ],
    ids=["pbc", "tied", "dual stream", "shared", "eps", "blind"],
)
def test_what_vlmos_code_does_not_have_is_refused_in_one_sentence(
    task: Any,  # noqa: ANN401 (makes a task)
    told: str,
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError, match=f"{told}.*; export it in ours$"):
        task().save_pretrained(tmp_path / "out", layout="vlmo")
    assert not (tmp_path / "out" / FILE).exists()


def test_a_model_of_ours_is_written_with_all_that_vlmos_loader_asks_for(tmp_path: Path) -> None:
    VQATask(CONFIG, answers=2).save_pretrained(tmp_path, layout="vlmo")
    stored = written(tmp_path)
    assert stored["text_embeddings.position_ids"].shape == (1, KNOWN)
    made = indices(texts=KNOWN)
    assert all(torch.equal(stored[name], made[name]) for name in INDICES)
    content = torch.load(tmp_path / FILE, weights_only=True)
    assert content["hyper_parameters"]["config"]["max_text_len_of_initckpt"] == KNOWN
    assert content["hyper_parameters"]["arch"]["num_heads"] == options()["arch"]["num_heads"]
    again = VQATask.from_pretrained(tmp_path)
    assert again.model.config == CONFIG
    assert isinstance(again.head, nn.Sequential)


# The commands


def export(source: Path, target: Path, *arguments: str) -> int:
    return main(["export", str(source), "--to", str(target), *arguments])


def test_files_are_exported_as_they_were_and_heads_that_they_lack_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {
        "bare": (vlmo_weights(pairs=0) | indices(), "mlm_score"),  # a head that no stage-2 file may hold
        "retrieval": (of_stage("retrieval"), "itm_score"),
    }
    for name, (weights, lacking) in files.items():
        file = write_file(tmp_path / f"{name}.pt", weights)
        assert export(file, tmp_path / name, "--format", "vlmo") == 0
        assert_equal(written(tmp_path / name), weights)
        told = capsys.readouterr().out
        assert re.search(rf"left out, for the source does not hold it: .*{lacking}", told)
        assert "in the layout 'vlmo'" in told


@pytest.mark.slow
def test_a_fit_starts_from_a_file_of_vlmos_at_another_image_size_and_says_so(
    tmp_path: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace)
    words = {"text_embeddings.word_embeddings.weight": torch.randn(300, WIDTH)}
    file = write_file(tmp_path / "vlmo.pt", of_stage("stage 3") | words)
    config = replace(CONFIG, vocab_size=300, image_size=48)
    given = {
        "model.init": file,
        "model.architecture": json.dumps(to_plain(config)),
        "model.answers": len(json.loads(Path("data/toy/shards/answers.json").read_text())),
        "run_root": tmp_path,
        "trainer.max_steps": 1,
        "trainer.limit_val_batches": 1,
        "data.pixel_mean": [0.5, 0.5, 0.5],
        "data.pixel_std": [0.5, 0.5, 0.5],
        "data.max_text_length": KNOWN,
        "data.workers": 0,
        "data.batch_size": 4,
        "data.global_batch_size": 4,
    }
    toy = Path(__file__).parents[2] / "experiments" / "vqa" / "toy.yaml"
    arguments = [str(part) for name, value in given.items() for part in (f"--{name}", value)]
    assert main(["fit", "--config", str(toy), *arguments]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("model.init: loaded ")
    assert "resized the image encoder's positions from 32 to 48 pixels" in first
    assert "new for this data: vqa_classifier" in first
    run = next(tmp_path.glob("vqa-*/best.ckpt")).parent
    assert export(run, tmp_path / "vlmo", "--format", "vlmo") == 0
    assert written(tmp_path / "vlmo")[UNUSED].shape == (TEXTS, WIDTH)
