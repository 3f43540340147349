from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from vle_lightning.demo.models import USES, Models, short_names
from vle_lightning.demo.page import Desk
from vle_lightning.errors import UserError


def test_each_model_serves_what_it_has_heads_for(desk: Desk) -> None:
    served = {kind: desk.models.serving(kind) for kind in USES}
    assert served["vqa"] == ["vqa"]
    assert served["pbc"] == served["itm"] == served["mlm"] == ["pretrain", "other"]
    assert (served["vcr-q2a"], served["vcr-qa2r"], served["retrieve"]) == (["vcr-q2a"], ["vcr-qa2r"], ["dual"])


def test_the_pipelines_of_a_model_share_the_weights_of_its_encoder(desk: Desk) -> None:
    pipelines = desk.models.find("pretrain").pipelines
    first, *others = [list(pipelines[kind].encoder.parameters()) for kind in ("itm", "pbc", "mlm")]
    assert all(a.data_ptr() == b.data_ptr() for other in others for a, b in zip(first, other, strict=True))


def test_a_missing_head_says_how_to_get_it(desk: Desk) -> None:
    assert "make finetune-vqa" in Models.missing("vqa")
    with pytest.raises(UserError, match="vqa has no head for image-text matching"):
        desk.models.find("vqa").answer("itm", image=None, text="a dog")
    with pytest.raises(UserError, match="No model of this name"):
        desk.models.find("another")


def test_requests_at_once_get_the_answers_of_requests_alone(desk: Desk) -> None:
    model, colours = desk.models.find("pretrain"), ("red", "green", "blue", "white", "black") * 4
    pictures = [Image.new("RGB", (48, 48), colour) for colour in colours]
    alone = [model.answer("itm", image=picture, text="the dog")["score"] for picture in pictures]
    with ThreadPoolExecutor(20) as pool:
        tasks = [pool.submit(model.answer, "itm", image=picture, text="the dog") for picture in pictures]
        together = [task.result()["score"] for task in tasks]
    for one, other in zip(alone, together, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_names_are_as_short_as_they_can_be() -> None:
    assert short_names(["runs/a/best.ckpt", "runs/b/best.ckpt"]) == ["a/best.ckpt", "b/best.ckpt"]
    assert short_names(["hfl/vle-base"]) == ["vle-base"]
    with pytest.raises(UserError, match="named twice"):
        short_names(["a/b", "a/b"])


def test_a_source_that_is_not_there_is_an_error(exported: Callable[[str], Path], tmp_path: Path) -> None:
    from vle_lightning.demo.models import Model

    with pytest.raises(UserError, match="no checkpoint"):
        Model(str(tmp_path / "none"), "none")
