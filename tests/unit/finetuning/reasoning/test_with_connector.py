"""The loss and the samples of training with a connector."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from instructbrush.core.editing.editor import DiffusersEditor
from instructbrush.core.errors import PairError
from instructbrush.core.finetuning.dataset import find_blocks
from instructbrush.core.finetuning.objective import DenoisingLoss, EditInputs
from instructbrush.core.finetuning.reasoning.with_connector import (
    ConnectorInputs,
    ConnectorLoss,
    ConnectorSample,
    ConnectorStream,
)
from instructbrush.core.finetuning.stream import EditStream
from instructbrush.core.reasoning.connector import Connector, new_connector


def first_samples(stream: ConnectorStream, count: int) -> list[ConnectorSample]:
    return [stream.sample(index, stream.record(index)) for index in range(count)]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_loss_of_an_untrained_connector_equals_the_editor_s(
    editor: DiffusersEditor,
    trained_connector: Connector,
    connector_stream: ConnectorStream,
    precision: torch.dtype,
) -> None:
    samples = first_samples(connector_stream, 4)
    unet = editor.denoiser.unet
    untrained = new_connector(trained_connector.config)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        plain = DenoisingLoss(unet)(**EditInputs(editor, 0, 0.05)(samples))
        inputs = ConnectorInputs(EditInputs(editor, 0, 0.05))(samples)
        assert torch.equal(ConnectorLoss(unet, untrained)(**inputs), plain)
        assert not torch.equal(ConnectorLoss(unet, trained_connector)(**inputs), plain)


def test_samples_without_text_skip_the_connector(
    editor: DiffusersEditor, trained_connector: Connector, connector_stream: ConnectorStream
) -> None:
    samples = first_samples(connector_stream, 8)
    unet = editor.denoiser.unet
    inputs = ConnectorInputs(EditInputs(editor, 0, 1 / 3))(samples)
    without_text = inputs["without_text"]
    assert without_text.any()
    assert not without_text.all()

    null = editor.encode_text([""])[0]
    is_null = torch.stack([(context == null).all() for context in inputs["context"]])
    assert torch.equal(is_null, without_text)
    without_image = torch.stack([(condition == 0).all() for condition in inputs["condition"]])
    assert (without_image & ~without_text).any(), "some samples have text and no image"
    lengths = torch.tensor([len(sample.states) for sample in samples])
    assert torch.equal(inputs["mask"].sum(1), lengths), "samples without image keep their states"

    with torch.no_grad():
        with_connector = ConnectorLoss(unet, trained_connector)(**inputs)
        plain = DenoisingLoss(unet)(**EditInputs(editor, 0, 1 / 3)(samples))
    assert torch.equal(with_connector[without_text], plain[without_text])
    assert (with_connector != plain)[~without_text].all()


def test_connector_gets_gradients_only_from_samples_with_text(
    editor: DiffusersEditor, trained_connector: Connector, connector_stream: ConnectorStream
) -> None:
    inputs = ConnectorInputs(EditInputs(editor, 0, 1 / 3))(first_samples(connector_stream, 8))
    without_text = inputs["without_text"]
    assert without_text.any()
    loss = ConnectorLoss(editor.denoiser.unet, trained_connector.requires_grad_(True))
    loss(**{name: tensor[without_text] for name, tensor in inputs.items()}).sum().backward()
    assert not any(
        parameter.grad is not None and parameter.grad.any() for parameter in trained_connector.parameters()
    )

    trained_connector.zero_grad()
    loss(**inputs).sum().backward()
    # A constant added to all keys does not change attention, so the bias of a key has no gradient.
    gradients = {
        name: parameter.grad
        for name, parameter in trained_connector.named_parameters()
        if not name.endswith("to_k.bias")
    }
    assert gradients
    assert all(gradient is not None and gradient.any() for gradient in gradients.values())


def test_plain_streams_ignore_indirect_instructions(reasoning_data: Path) -> None:
    stream = EditStream(find_blocks([reasoning_data]), 64)
    words = {stream.sample(index, stream.record(index)).words for index in range(len(stream))}
    assert words == {f"invert part {number}" for number in range(6)}
    with pytest.raises(PairError, match="has no words"):
        replace(stream.record(0), words="").read()
