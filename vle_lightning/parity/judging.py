"""Comparing what our code makes of a model case with all that the authors recorded of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vle_lightning.hub.keymap import KeyMap, translate
from vle_lightning.hub.vle import VLE_HEADS, VLE_KEYS
from vle_lightning.models.backbone import Backbone
from vle_lightning.parity.checks import GRADIENT_NORM, OUTPUT, Check, compare, compare_loss, failure
from vle_lightning.parity.fixtures import Case
from vle_lightning.parity.intermediates import VLE_TABLES, Pass, Tables, check_intermediate, record
from vle_lightning.tasks.base import VisionLanguageTask


class Network(NamedTuple):
    """What a case runs on, in eval mode."""

    encoder: Backbone
    heads: Mapping[str, nn.Module]  # by published name
    parameters: Callable[[str], list[Tensor]]  # ours that make up the parameter of a published name
    tables: Tables = VLE_TABLES


class Answer(NamedTuple):
    """What our code makes of a case."""

    outputs: dict[str, Tensor]
    loss: Callable[[], Tensor] | None = None  # taken after the recording, so it may run the network again
    text_outputs: tuple[str, ...] = ()  # those with a row for each token
    loss_name: str = "loss"  # among the outputs


def judge(case: Case, network: Network, run: Pass, answer: Callable[[], Answer]) -> Iterator[Check]:
    """Run a case and compare all that the authors recorded of it."""
    intermediates = case.group("mid")
    with record(network.encoder, list(intermediates), network.tables) as recording:
        ours = answer()
    loss = ours.loss() if ours.loss is not None else None
    for name, reference in case.group("output").items():
        if name == ours.loss_name:
            yield compare_loss(f"output.{name}", loss, float(reference))
        else:
            rows = run.mask if name in ours.text_outputs else None
            yield compare(f"output.{name}", ours.outputs.get(name), reference, OUTPUT, rows)
    for name in set(case.content.get("outputs", ())) - case.group("output").keys():
        yield failure(f"output.{name}", "missing: the case's JSON names it, its tensors do not hold it")
    if "loss" in case.content:
        yield compare_loss("loss", loss, case.content["loss"])
    for name in case.tensors:
        if name.split(".")[0] not in ("input", "output", "mid"):
            yield failure(name, "unknown: neither input.*, output.* nor mid.*")
    for name, reference in intermediates.items():
        yield check_intermediate(name, reference, recording, run, network.tables)
    if "grad_norms" in case.content:
        yield from check_gradients(case.content["grad_norms"], network, loss)


def check_gradients(norms: dict[str, float | None], network: Network, loss: Tensor | None) -> Iterator[Check]:
    """Compare the L2 norm of each parameter's gradient; null means that none arrives."""
    if loss is None:
        yield failure("grad_norms", "missing: there is no loss here")
        return
    loss.backward()
    for name, norm in norms.items():
        parameters = network.parameters(name)
        if not parameters and norm is not None:
            yield failure(f"grad.{name}", "missing: no parameter here has this published name")
            continue
        gradients = [parameter.grad.flatten() for parameter in parameters if parameter.grad is not None]
        gradient = torch.cat(gradients).norm() if gradients else torch.zeros(())
        yield compare(f"grad.{name}", gradient, torch.tensor(norm or 0.0), GRADIENT_NORM)


def find_parameters(published: str, encoder: nn.Module, heads: Mapping[str, nn.Module]) -> list[Tensor]:
    """Return our parameter of a name of VLE's, in a list, which is empty where there is none."""
    head, _, rest = published.partition(".")
    if head in heads:
        return named_parameters(heads[head], rest, VLE_HEADS[head])
    return named_parameters(encoder, published, VLE_KEYS)


def named_parameters(module: nn.Module, published: str, table: KeyMap) -> list[Tensor]:
    """Return a module's parameter of a published name by a table, in a list, which is empty where there is none."""
    name = next(iter(translate({published: torch.empty(0)}, table).weights), "")
    found = dict(module.named_parameters(remove_duplicate=False)).get(name)
    return [] if found is None else [found]


def vle_network(encoder: Backbone, heads: Mapping[str, nn.Module]) -> Network:
    """Show an encoder and its heads by VLE's names."""
    return Network(encoder, heads, lambda published: find_parameters(published, encoder, heads))


def network_of(task: VisionLanguageTask) -> Network:
    """Put a task in eval mode and show its parts by VLE's names."""
    task.eval()
    return vle_network(task.model, task.published_heads())
