"""Where the authors' intermediate values are found here."""

from __future__ import annotations

import pytest
import torch

from vle_lightning.parity.intermediates import Pass, Place, Side, locate
from vle_lightning.parity.models import membership, padded
from vle_lightning.parity.questions import by_choice


def test_published_names_are_found_at_any_depth_and_call() -> None:
    assert locate("vle.text_model.encoder.layer.23@call3") == Place(
        "text.model.encoder.layer.23", Side.TEXT, "output", 3
    )
    assert locate("cross_modal_image_layers.5") == Place("fusion.image.5", Side.FUSED_IMAGE, "output", 1)
    assert locate("vision_model.vision_model.post_layernorm@call4") == Place("image.post_norm", Side.IMAGE, "output", 2)
    assert "nothing reads" in str(locate("vision_model.vision_model.post_layernorm@call3"))
    assert "whole" in str(locate("vle.cross_modal_text_layers.0.crossattention"))
    assert locate("vle.something.new") is None


def test_boxes_types_and_choices_are_laid_out_with_zeros() -> None:
    assert membership([[[0, 2], [1]], []], 3).tolist() == [[[1, 0, 1], [0, 1, 0]], [[0, 0, 0], [0, 0, 0]]]
    assert padded([[2, 3], []]).tolist() == [[2, 3], [0, 0]]
    assert padded([[], []]).shape == (2, 0)
    stacked = by_choice([torch.ones(2, 3, 4), torch.ones(2, 1, 4)])
    assert stacked.shape == (2, 2, 3, 4)
    assert stacked.sum(-1).tolist() == [[[4, 4, 4], [4, 0, 0]]] * 2


def test_a_pass_over_choices_answers_for_calls_of_single_choices() -> None:
    run = Pass(torch.ones(2, 3, 5, dtype=torch.bool))
    rows = torch.arange(6).reshape(6, 1, 1).expand(6, 7, 1)
    place = Place("fusion.image.0", Side.FUSED_IMAGE, "output", 2)
    value, compared = run.find([rows], place, torch.empty(2, 4, 1))
    assert value[:, 0, 0].tolist() == [1, 4]  # the second of three choices, of both examples
    assert value.shape == (2, 4, 1)
    assert compared is None
    with pytest.raises(IndexError):
        run.find([rows], place._replace(call=4), torch.empty(2, 4, 1))
